"""The cache folder follows the environment, and a user without a home directory gets an error that says what to set."""

from pathlib import Path

import pytest

from gan_core.cache import user_cache_dir
from gan_core.errors import SettingsError


def test_the_cache_folder_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_CACHE_DIR", "/mine")
    assert user_cache_dir() == Path("/mine")


def test_a_variable_replaces_the_home_directory_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("GANTRY_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_cache_dir() == Path("/caches/gantry")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(SettingsError, match="Set GANTRY_CACHE_DIR"):
        user_cache_dir()
