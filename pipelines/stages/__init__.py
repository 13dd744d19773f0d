"""What every stage shares: its key, its work directory, and a process that dies with the one that started it."""
