"""Broken and hostile inputs by the thousand, the same ones each time: ``make fuzz``, and in small a part of ``make test``."""
