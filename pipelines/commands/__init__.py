"""The commands of ``gantry``, one file a verb."""
