"""How costs grow with the number of pictures (``python -m tests.scale.ingest``) and of workers (``python -m tests.scale``)."""
