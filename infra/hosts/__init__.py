"""Several hosts on one Linux machine, for tests and for trying out a cluster: see :mod:`infra.hosts.hosts`."""
