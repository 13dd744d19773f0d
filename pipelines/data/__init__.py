"""Dataset sources in, prepared datasets out: fetching and adding raw data, and ingestion."""
