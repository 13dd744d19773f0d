"""Read params.yaml and check it against the schema."""
