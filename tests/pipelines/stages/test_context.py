"""Stages under a real ``dvc repro``: killed in every way, and started again."""

import os
import signal
import sys

import pytest

from gan_core.errors import StageError
from pipelines.runtime.checkout import NEIGHBOURS, Checkout
from pipelines.stages.context import run_stage
from pipelines.storage.objects import Storage
from pipelines.storage.work import work_name
from tests.pipelines.toy import dvc, run, running, start, wait_for

REPRO = (sys.executable, "-m", "dvc", "repro")


def _pids(project, name="slow") -> list[int]:
    """The stage's process and its child, once it works."""
    wait_for((project / f"{name}.pids").exists, what=f"the start of stage {name}")
    pids = [int(word) for word in (project / f"{name}.pids").read_text().split()[:2]]
    (project / f"{name}.pids").unlink()
    return pids


def _steps(project) -> list[str]:
    (steps,) = (project / "var" / "work" / "slow").glob("*/steps.txt")
    return steps.read_text().splitlines()


def test_killing_dvc_ends_the_stage_and_the_next_repro_resumes_it(project):
    (project / "params.yaml").write_text("steps: 15\n")
    repro = start(*REPRO, "slow", cwd=project)
    pids = _pids(project)
    wait_for(lambda: len(_steps(project)) >= 3, what="three steps")
    repro.kill()
    repro.communicate()
    # Started at once: it has to wait for the orphan, and must not run beside it.
    again = start(*REPRO, "slow", cwd=project)
    wait_for(lambda: not any(map(running, pids)), 10, f"the end of {pids}")
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    steps = _steps(project)
    assert len(steps) == 15, "steps were done twice, or lost"
    first = steps.count(str(pids[0]))
    assert first >= 3
    assert steps[:first] == [str(pids[0])] * first, "two processes worked at the same time"
    assert (project / "slow-out" / "text.txt").read_text() == "one\n"


def test_a_killed_stage_fails_dvc_and_its_child_ends_too(project):
    (project / "params.yaml").write_text("steps: 1000\n")
    repro = start(*REPRO, "slow", cwd=project)
    pids = _pids(project)
    os.kill(pids[0], signal.SIGKILL)
    output, _ = repro.communicate(timeout=30)
    assert repro.returncode != 0
    assert "failed to reproduce 'slow'" in output
    assert not any(map(running, pids))


def test_a_second_run_of_a_running_stage_is_an_error(project):
    (project / "params.yaml").write_text("steps: 1000\n")
    repro = start(*REPRO, "slow", cwd=project)
    pids = _pids(project)
    second = start(sys.executable, "stages.py", "slow", cwd=project)
    output, _ = second.communicate(timeout=30)
    assert second.returncode != 0
    assert f"process {pids[0]} on" in output
    repro.kill()
    repro.communicate()
    wait_for(lambda: not any(map(running, pids)), 10, f"the end of {pids}")


def test_results_are_published_again_if_dvc_was_killed_before_recording_them(project):
    dvc("repro", "quick", cwd=project)
    runs = [(project / f"{name}.pids").read_text().split()[2] for name in ("slow", "quick")]
    assert runs[0] == runs[1], "the stages of one dvc repro do not share a pipeline run"
    assert runs[0].startswith("repro-")
    before = _steps(project)
    # As if the kill had come between the stage's end and DVC's notes of it.
    (project / "dvc.lock").unlink()
    (project / "slow-out" / "text.txt").unlink()
    output = dvc("repro", "--no-run-cache", "slow", cwd=project).stdout
    assert "Running stage 'slow'" in output
    assert _steps(project) == before
    assert (project / "slow-out" / "text.txt").read_text() == "one\n"


def test_outs_and_results_must_agree(project):
    def nothing(context):
        return {}

    def absent(context):
        return {"slow-out": context.work / "absent"}

    def surprise(context):
        (context.work / "x").touch()
        return {"slow-out": context.work / "x", "other": context.work / "x"}

    for body, message in [
        (nothing, "out slow-out in dvc.yaml, but its code does not make it"),
        (absent, "did not write .*absent, which becomes its out slow-out"),
        (surprise, "makes other, which dvc.yaml does not list"),
    ]:
        with pytest.raises(StageError, match=message):
            run_stage("slow", body, Checkout.at(project), guard=False)
    assert not (project / "slow-out").exists()


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [("params.yaml", "steps: 4\n", "steps in params.yaml"), ("data.txt", "two\n", "data.txt")],
)
def test_results_are_not_published_if_an_input_changed_while_they_were_made(project, file, text, named):
    """DVC hashes the inputs after the command: it would record the results of the old input as those of the new one."""
    before, editing = (project / file).read_text(), [text]

    def body(context):
        (context.work / "result").write_text((project / "data.txt").read_text())
        for change in editing:
            (project / file).write_text(change)
        return {"slow-out": context.work / "result"}

    with pytest.raises(StageError, match=f"its inputs changed meanwhile: {named}[.]"):
        run_stage("slow", body, Checkout.at(project), guard=False)
    assert not (project / "slow-out").exists()
    editing.clear()
    run_stage("slow", body, Checkout.at(project), guard=False)
    assert (project / "slow-out").read_text() == (project / "data.txt").read_text()
    (project / file).write_text(before)
    run_stage("slow", body, Checkout.at(project), guard=False)
    assert (project / "slow-out").read_text() == "one\n"


def test_an_optional_out_that_dvc_yaml_does_not_list_is_left_out_and_named(project, caplog):
    def body(context):
        for name in ("result", "pairs"):
            (context.work / name).write_text("made")
        return {"slow-out": context.work / "result", NEIGHBOURS: context.work / "pairs"}

    with caplog.at_level("INFO"):
        run_stage("slow", body, Checkout.at(project), guard=False)
    assert (project / "slow-out").read_text() == "made"
    assert not (project / NEIGHBOURS).exists()
    assert f"does not keep {NEIGHBOURS}" in caplog.text


def test_finished_work_of_an_earlier_key_is_removed_from_the_storage_too(project, tmp_path, caplog):
    storage = Storage(f"file://{tmp_path}/storage", patience=1)

    def body(context):
        storage.write(f"{work_name('slow', context.key)}/journal", b"x")
        (context.work / "result").write_text("made")
        return {"slow-out": context.work / "result"}

    def run_with(steps, uri=storage.uri):
        (project / "params.yaml").write_text(f"steps: {steps}\n")
        run_stage("slow", body, Checkout.at(project), guard=False, storage_uri=lambda: uri)

    def keys():
        return {entry.name.split("/")[2] for entry in storage.entries("work/slow")}

    run_with(1)
    first = keys()
    run_with(1)
    assert len(first) == 1
    assert keys() == first
    run_with(2)
    assert len(keys()) == 1
    assert keys() != first
    (tmp_path / "file").touch()
    run_with(3, f"file://{tmp_path}/file")  # a storage that cannot be used does not fail a stage that is finished
    assert "Finished work was not removed: Storage file://" in caplog.text


def test_a_signal_during_shutdown_prints_no_traceback(project):
    """Ray stops its processes at interpreter exit. A signal then used to raise in a callback and print a traceback."""
    (project / "late.py").write_text(
        "import atexit, os, signal, sys, time\n"
        "from pipelines.runtime.checkout import Checkout\n"
        "from pipelines.stages.context import run_stage\n"
        "def body(context):\n"
        "    atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(0.2), print('the last callback')))\n"
        "    (context.work / 'result').write_text('done')\n"
        "    return {'slow-out': context.work / 'result'}\n"
        "run_stage('slow', body, Checkout.at())\n"
    )
    ended = run(sys.executable, "late.py", cwd=project)
    assert "Traceback" not in ended.stdout
    assert "the last callback" in ended.stdout
    assert (project / "slow-out").read_text() == "done"


ENDS_AT_ONCE = """
import atexit, sys
from pathlib import Path
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import _end_at_once
from pipelines.stages.context import run_stage

def body(context):
    atexit.register(_end_at_once)  # as ray_cluster() does where Ray died
    if sys.argv[1] == "fails":
        raise ValueError("no result")
    (context.work / "result").mkdir()
    return {"slow-out": context.work / "result"}

run_stage("slow", body, Checkout.at())
"""


@pytest.mark.parametrize(("how", "status", "published"), [("publishes", 0, True), ("fails", 1, False)])
def test_the_exit_status_of_a_stage_whose_ray_died_depends_on_its_result(project, how, status, published):
    stage = start(sys.executable, "-c", ENDS_AT_ONCE, how, cwd=project)
    told, _ = stage.communicate(timeout=120)
    assert stage.returncode == status, told
    assert (project / "slow-out").is_dir() == published
