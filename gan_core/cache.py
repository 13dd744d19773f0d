"""The user's cache folder for downloads and derived files, shared by all projects."""

import os
from pathlib import Path

from gan_core.errors import SettingsError


def user_cache_dir() -> Path:
    """Return the folder of downloads and caches: ``GANTRY_CACHE_DIR``, or ``gantry`` in the user's cache folder.

    Raises:
        SettingsError: neither GANTRY_CACHE_DIR nor XDG_CACHE_HOME is set, and the user has no home directory.
    """
    if given := os.environ.get("GANTRY_CACHE_DIR"):
        return Path(given)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "gantry"
    try:
        return Path.home() / ".cache" / "gantry"
    except RuntimeError:
        raise SettingsError("This user has no home directory for a cache. Set GANTRY_CACHE_DIR to a folder.") from None
