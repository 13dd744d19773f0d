"""``gantry stage`` tells why DVC does not record its results yet."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from gan_core.locks import try_lock
from pipelines.commands import stage as module


def test_a_stage_says_at_its_end_whom_dvc_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "run_stage", lambda *_, **__: logging.getLogger("stage").info("done"))
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    with (tmp_path / ".dvc/tmp/lock").open("w") as held:
        held.write(" 4321\n")
        held.flush()
        assert try_lock(held.fileno())
        assert CliRunner().invoke(module.stage, ["ingest"]).exit_code == 0
        assert caplog.messages == ["done", f"Waiting for another DVC command in {tmp_path} (process 4321)."]
    caplog.clear()
    assert CliRunner().invoke(module.stage, ["ingest"]).exit_code == 0
    assert caplog.messages == ["done"]
