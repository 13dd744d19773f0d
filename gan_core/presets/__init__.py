"""What ``auto`` chooses, what it costs, and which family to recommend."""
