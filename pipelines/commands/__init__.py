"""The commands of ``gantry``: a module for each command or group of related commands."""
