"""Faults on purpose: processes killed, disks full, clocks set back, servers gone; then everything has to be as without them.

``python -m tests.chaos`` runs the cases and prints a table (``make chaos``). :mod:`tests.chaos.inject` makes the moments at which
a process may fail enumerable, :mod:`tests.chaos.place` has checkouts to break, :mod:`tests.chaos.checks` says what has to hold
afterwards, and ``case_*.py`` are the cases.
"""
