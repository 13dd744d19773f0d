"""The schema of params.yaml, and reading it."""
