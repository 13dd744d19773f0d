"""Faults on purpose: killed processes, full disks, clocks set back, lost servers. The result has to be the same as without.

``python -m tests.chaos`` (``make chaos``) runs the cases and prints a table. :mod:`tests.chaos.inject` makes the moments at
which a process may fail enumerable, :mod:`tests.chaos.place` provides checkouts to break, :mod:`tests.chaos.checks` says what
has to hold afterwards, and ``case_*.py`` hold the cases.
"""
