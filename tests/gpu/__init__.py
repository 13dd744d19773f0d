"""Everything to measure on a machine with one card, by one command: ``python -m tests.gpu PART`` (see ``__main__.py``)."""
