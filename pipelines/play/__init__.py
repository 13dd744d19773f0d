"""A web page on this machine to try out a generator (``gantry play``)."""
