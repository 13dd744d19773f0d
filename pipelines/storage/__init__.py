"""Storage that several hosts share: objects below one URI, folders, leases, and a cache on each node."""
