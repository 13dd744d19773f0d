"""``gantry storage`` lists what the storage holds, and removes what nobody uses."""

import json
import os
import shutil
import time

import pytest
from click.testing import CliRunner

from gan_core.errors import SettingsError
from pipelines.commands.storage import storage as command
from pipelines.storage.lease import lease
from pipelines.storage.objects import Storage
from tests.pipelines.settings_example import ROOT


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A storage with work of three keys: finished 40 days ago, begun 40 days ago, and begun now."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GANTRY_STORAGE_URI", f"file://{tmp_path}/storage")
    storage = Storage(f"file://{tmp_path}/storage")
    for name in ("done/finished", "left/journal/1", "new/journal/1"):
        storage.write(f"work/train/{name}", b"12345")
    for name in ("done/finished", "left/journal/1"):
        os.utime(tmp_path / "storage" / "work" / "train" / name, (time.time() - 40 * 86400,) * 2)
    return storage


def run(*words):
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    return done.output


def test_it_lists_and_says_what_would_be_removed(storage):
    with lease(storage, "work/train/left"):
        shown = run()
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()}
    assert lines["work/train/done"] == "5 bytes finished, unused for 40.0 days"
    assert lines["work/train/left"].startswith("5 bytes in use by work/train/left (process ")
    assert lines["work/train/new"] == "5 bytes unfinished, unused for 0.0 days"
    assert "--prune would remove 1 item(s) of 5 bytes, unused for at least 30 days." in shown
    assert storage.read("work/train/done/finished") == b"12345"


def test_prune_removes_what_is_old_and_not_used(storage):
    with lease(storage, "work/train/left"):
        found = {thing["name"]: thing for thing in json.loads(run("--prune", "--json"))}
    assert [name for name, thing in found.items() if thing["removed"]] == ["work/train/done"]
    assert "work/train/left " in (shown := run("--prune", "--days", "10"))
    assert "removed" in next(line for line in shown.splitlines() if line.startswith("work/train/left "))
    assert [entry.name for entry in storage.entries("work/train")] == ["work/train/new/journal/1"]


def test_without_a_storage_the_error_names_the_setting(storage, monkeypatch):
    monkeypatch.delenv("GANTRY_STORAGE_URI")
    with pytest.raises(SettingsError, match=r"Set storage.uri"):
        run()
