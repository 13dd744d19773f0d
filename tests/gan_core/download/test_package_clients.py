"""A client of a registry is watched by the files that it writes."""

import sys
from pathlib import Path

import pytest

from gan_core.download import package_clients


def run(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run a client for as long as it writes something at least every second; returns the progress that is reported."""
    monkeypatch.setattr(package_clients, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(package_clients, "_POLL_SECONDS", 0.05)
    done: list[int] = []
    package_clients._run([sys.executable, "-S", "-c", program], folder, done.append, {})
    return done


def test_a_client_that_writes_smaller_files_after_a_large_one_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import pathlib, time
pathlib.Path("large").write_bytes(bytes(1000))
for index in range(5):
    time.sleep(0.4)
    pathlib.Path(f"small-{index}").write_bytes(bytes(10))
"""
    assert set(run(program, tmp_path, monkeypatch)) <= {0, 1000}


def test_a_client_that_writes_nothing_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(package_clients.ClientError, match="was stopped after downloading nothing for 1.0 s"):
        run("import time; time.sleep(60)", tmp_path, monkeypatch)
