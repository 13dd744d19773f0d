"""Where the files of a checkout are, each place named once."""

PREPARED = "data/prepared"
"""The prepared dataset, relative to the checkout."""
