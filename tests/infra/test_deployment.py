"""A deployed run whose worker dies is taken up by another worker, which resumes its stage. Takes three minutes."""

import os
import signal
import subprocess

import psutil
import pytest
from click.testing import CliRunner

from pipelines.commands.deploy import deploy
from pipelines.flow.automations import LOST
from tests.pipelines.conftest import STAGE_DVC, STAGE_PROGRAM
from tests.pipelines.deployed import prefect_worker, push_project
from tests.pipelines.toy import make_project, wait_for

pytestmark = [pytest.mark.hosts, pytest.mark.prefect]
STEPS = 150
"""Each takes 0.2 s."""


def _kill_with_descendants(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started at once, as a loss of power does. Each is killed by its id."""
    parent = psutil.Process(process.pid)
    parent.suspend()
    for one in [*parent.children(recursive=True), parent]:
        os.kill(one.pid, signal.SIGKILL)


def test_another_worker_resumes_the_stage_of_a_run_whose_worker_was_killed(prefect_api, tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client

    for name in ("GANTRY_VAR", "GANTRY_PIPELINE_RUN"):
        monkeypatch.delenv(name, raising=False)
    files = {"stages.py": STAGE_PROGRAM, "dvc.yaml": STAGE_DVC, "params.yaml": f"steps: {STEPS}\n", "data.txt": "one\n"}
    project = make_project(tmp_path / "project", files)
    push_project(project, tmp_path / "remote" / "toy.git")
    monkeypatch.chdir(project)
    words = ["--name", "resumed", "--pool", "resumed", "--no-schedule"]
    CliRunner().invoke(deploy, words, catch_exceptions=False)
    host = tmp_path / "host"

    def steps() -> list[str]:
        found = list(host.glob("deployments/*/var/work/slow/*/steps.txt"))
        return found[0].read_text().split() if found else []

    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(client.read_deployment_by_name("pipeline/resumed").id)
        with prefect_worker("resumed", host) as first:
            wait_for(lambda: len(steps()) > 10, 90, "ten steps")
            _kill_with_descendants(first)
        kept = steps()
        assert len(kept) < STEPS, "the stage had ended before"
        with prefect_worker("resumed", host):
            wait_for(lambda: len(steps()) > len(kept), 150, "a step of the other worker")
            assert steps()[: len(kept)] == kept, "the stage begins where the killed one stopped"
            wait_for(lambda: client.read_flow_run(run.id).state.is_completed(), 200, "the end of the run")
        states = client.read_flow_run_states(run.id)
        assert client.read_flow_run(run.id).run_count == 2
    assert any(state.is_crashed() and state.message.startswith(LOST) for state in states)
    assert "AwaitingRetry" in [state.name for state in states]
    assert (tmp_path / "remote" / "store").exists(), "the results are on DVC's remote"
