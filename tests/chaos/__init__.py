"""Inject faults: killed processes, full disks, clocks set back, lost servers. The results must be the same as without them.

``python -m tests.chaos`` (``make chaos``) runs the cases and prints a table. :mod:`tests.chaos.inject` enumerates the moments
at which a process may fail, :mod:`tests.chaos.place` provides checkouts to break, :mod:`tests.chaos.checks` checks the results,
and ``case_*.py`` define the cases.
"""
