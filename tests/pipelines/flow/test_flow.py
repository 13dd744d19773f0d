"""Real flow runs of a toy pipeline on a real Prefect server."""

import json
import signal
import sys
import threading
from contextvars import copy_context
from types import SimpleNamespace

import pytest

from pipelines.flow import process
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import dvc, make_project, run, running, start, wait_for

pytestmark = pytest.mark.prefect

FLOW = """
import sys
from pipelines.flow import process
from pipelines.flow.flow import pipeline_flow
from pipelines.runtime.checkout import Checkout
process.GRACE_SECONDS = 1.0
pipeline_flow(Checkout.at(sys.argv[1]))()
"""
PARAMS_SLOW = "fail: none\nseconds_a: 300\nseconds_b: 0\n"


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    """Shorten the grace period: the toy's stages never end by themselves."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 1.0)


def _run(root, **parameters):
    from pipelines.flow.flow import pipeline_flow

    return pipeline_flow(Checkout.at(root))(return_state=True, **parameters)


def _pids(root, target) -> list[int]:
    place = root / f"{target}.pids"
    wait_for(place.exists, 60, f"the making of {target}")
    return [int(word) for word in place.read_text().split()]


def _logs(client, run_id) -> str:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200, offset=0)
    return "\n".join(log.message for log in found)


def test_stages_run_once_in_dvcs_order_and_are_cached_after_that(prefect_api, flow_project):
    from prefect.client.orchestration import get_client

    state = _run(flow_project)
    assert state.is_completed(), state.message
    results = state.result()
    assert [(result.stage, result.state) for result in results] == [("first", "Ran"), ("second", "Ran")]
    assert (flow_project / "b").read_text() == "raw\na\nb\n"

    with get_client(sync_client=True) as client:
        run_id = state.state_details.flow_run_id
        run = client.read_flow_run(run_id)
        # The lines that stages print are in the run's log, and the stages know which run they are a part of.
        wait_for(lambda: "making b in run" in _logs(client, run_id), 30, "the log's arrival at the server")
        assert f"making a in run {run.name}-" in _logs(client, run_id)

    state = _run(flow_project)
    assert [(result.stage, result.state) for result in state.result()] == [("first", "Cached"), ("second", "Cached")]
    state = _run(flow_project, stages=["first"])
    assert [result.stage for result in state.result()] == ["first"]


def test_a_version_that_the_registry_has_lost_is_registered_again(prefect_api, tmp_path, monkeypatch):
    """DVC alone would never do it: the inputs are as they were."""
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    version = {"name": "digits", "version": "1", "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/abc"}
    out = {"outputs/register/registered.json": {"cache": False, "persist": True}}
    command = f"mkdir -p outputs/register && cp version.json {next(iter(out))} && echo done >> times"
    files = {
        "version.json": json.dumps(version),
        "params.yaml": "track: {uri: 'sqlite:///var/mlflow.db'}\n",
        "dvc.yaml": json.dumps({"stages": {"register": {"cmd": command, "deps": ["version.json"], "outs": [out]}}}),
    }
    root = make_project(tmp_path / "project", files)
    assert [result.state for _ in range(2) for result in _run(root).result()] == ["Ran", "Ran"]
    assert (root / "times").read_text() == "done\n" * 2


@pytest.mark.parametrize("train", [True, False])
def test_a_scheduled_run_skips_what_follows_if_the_data_has_changed_too_little(
    prefect_api, flow_project, monkeypatch, train
):
    from prefect.client.orchestration import get_client

    from pipelines.flow import flow
    from pipelines.flow.client_requests import ServedPipeline
    from pipelines.flow.data_change import Verdict

    monkeypatch.setattr(flow, "FIRST_STAGE", "first")
    monkeypatch.setattr(flow, "judge_change", lambda *_, **__: Verdict(train=train, reason="share 0.1 (bound 0.2)"))
    params = flow_project / "params.yaml"
    params.write_text(params.read_text() + "flow: {train_above: {share: 0.2}}\n")
    dvc("repro", "-q", cwd=flow_project)  # the data of the worktree
    run("git", "commit", "-qam", "bounds", cwd=flow_project)
    served = flow.pipeline_flow(Checkout.at(flow_project), ServedPipeline(revision="HEAD"))
    state = served(return_state=True)
    assert state.is_completed(), state.message
    ends = [result.state for result in state.result()]
    assert ends[1] == ("Cached" if train else "Skipped")
    if not train:
        assert (state.name, state.message) == ("Skipped", "Not trained: share 0.1 (bound 0.2)")
        with get_client(sync_client=True) as client:
            run_id = state.state_details.flow_run_id
            logged = "Not training: share 0.1 (bound 0.2)."
            wait_for(lambda: logged in _logs(client, run_id), 30, "the log's arrival at the server")


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"revision": "--upload-pack=touch ran"}, "cannot use the revision"),
        ({"overrides": {"track.uri": "http://evil.example"}}, "cannot set 'track.uri'"),
    ],
    ids=["revision", "overrides"],
)
def test_a_run_that_asks_for_what_a_client_may_not_choose_fails_before_it_does_anything(
    prefect_api, flow_project, asked, why
):
    from pipelines.flow.client_requests import ServedPipeline
    from pipelines.flow.flow import pipeline_flow

    before = {path.name for path in flow_project.iterdir()}
    state = pipeline_flow(Checkout.at(flow_project), ServedPipeline(revision="HEAD"))(return_state=True, **asked)
    assert state.is_failed()
    assert why in state.message
    assert {path.name for path in flow_project.iterdir()} - before <= {"var"}
    assert not list((flow_project / "var").glob("worktrees/*"))


def test_a_failing_stage_is_retried_and_ends_the_flow_with_its_error(prefect_api, flow_project, caplog):
    from pipelines.flow.flow import PipelineError

    params = flow_project / "params.yaml"
    params.write_text(params.read_text().replace("fail: none", "fail: a") + "flow: {retries: 1, retry_delay_s: 0}\n")
    state = _run(flow_project)
    assert state.is_failed()
    error = state.result(raise_on_failure=False)
    assert isinstance(error, PipelineError)
    whole = next((flow_project / "var" / "logs").glob("*/first.log"))
    assert str(error).splitlines() == [
        "Stage 'first' failed (status 255).",
        "the trouble with a",
        f"Its whole output is in {whole}.",
    ]
    assert state.message == "Stage 'first' failed (status 255)."
    assert whole.read_text().count("the trouble with a") == 2, "of each attempt"
    (first,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert first.startswith("Attempt 1 of 2: Stage 'first' failed (status 255).\nthe trouble with a\n")
    # Once by the flow, for the server's log: the command tells it on the terminal, at its own end.
    (last,) = [
        record for record in caplog.records if "trouble with a" in record.getMessage() and record.levelname == "ERROR"
    ]
    assert last.shown_by_command
    assert "NoneType" not in caplog.text, "a traceback of no exception"
    assert [(result.stage, result.state) for result in error.results] == [("first", "Failed")]
    assert not (flow_project / "b.pids").exists(), "a stage was run after one that failed"
    assert not running(_pids(flow_project, "a")[1]), "the failed stage's child was left behind"


def test_log_and_state_of_a_run_hold_no_secret(prefect_api, flow_project, monkeypatch):
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("GANTRY_TRACKING_URI", "http://me:s3cr3t-word@127.0.0.1:9")
    stages = flow_project / "stages.py"
    tells = 'print("error: trouble at", os.environ["GANTRY_TRACKING_URI"], flush=True)'
    stages.write_text(stages.read_text().replace('print(f"error: the trouble with {target}", flush=True)', tells))
    params = flow_project / "params.yaml"
    params.write_text(params.read_text().replace("fail: none", "fail: a") + "flow: {retries: 0}\n")
    state = _run(flow_project)
    assert state.is_failed()
    error = str(state.result(raise_on_failure=False))
    assert "trouble at http://127.0.0.1:9" in error
    assert "s3cr3t" not in state.message + error
    with get_client(sync_client=True) as client:
        run_id = state.state_details.flow_run_id
        wait_for(
            lambda: "trouble at http://127.0.0.1:9" in _logs(client, run_id), 30, "the log's arrival at the server"
        )
        assert "s3cr3t" not in _logs(client, run_id)


def test_the_name_of_a_run_is_sanitised(monkeypatch):
    """It is the name of a folder that is removed at the end, and of a DVC experiment."""
    from pipelines.flow import flow

    run = SimpleNamespace(get_id=lambda: "0d1e2f30-0000-0000-0000-000000000000")
    monkeypatch.setattr(flow, "current_run", run)
    for called, name in {
        "../../../etc": "etc-0d1e2f30",
        "--help": "help-0d1e2f30",
        "a\nb; rm -rf /": "a-b-rm-rf-0d1e2f30",
        "..": "run-0d1e2f30",
        "quick-fox": "quick-fox-0d1e2f30",
        "x" * 300: "x" * 60 + "-0d1e2f30",
    }.items():
        run.get_name = lambda called=called: called
        assert flow.run_name() == name


def test_a_stage_that_exceeds_its_time_limit_is_ended(prefect_api, flow_project):
    params = flow_project / "params.yaml"
    params.write_text(PARAMS_SLOW + "flow: {timeout_s: {first: 8}}\n")
    state = _run(flow_project)
    assert state.is_failed()
    assert "exceeded its time limit of 8 s" in state.message
    assert [result.state for result in state.result(raise_on_failure=False).results] == ["TimedOut"]
    assert not any(map(running, _pids(flow_project, "a")))


def test_cancelling_a_flow_ends_its_processes(prefect_api, flow_project):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Cancelling

    (flow_project / "params.yaml").write_text(PARAMS_SLOW)
    pids = []

    def cancel() -> None:
        pids.extend(_pids(flow_project, "a"))
        chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
        with get_client(sync_client=True) as client:
            for run in client.read_flow_runs(flow_run_filter=chosen, limit=20, sort=FlowRunSort.START_TIME_DESC):
                client.set_flow_run_state(run.id, Cancelling())

    thread = threading.Thread(target=copy_context().run, args=(cancel,))
    thread.start()
    state = _run(flow_project)
    thread.join()
    assert state.is_cancelled(), state
    assert "in stage 'first'" in state.message
    assert len(pids) == 2
    assert not any(map(running, pids))
    assert not (flow_project / "b.pids").exists()


@pytest.mark.parametrize("next_run", ["in another container", "after a move"])
def test_a_killed_flow_ends_its_processes_and_the_next_run_marks_it_as_crashed(prefect_api, flow_project, next_run):
    from pipelines.flow.owner import mark_crashed

    checkout, moved = Checkout.at(flow_project), Checkout.at(flow_project.with_name("moved"))
    (flow_project / "params.yaml").write_text(PARAMS_SLOW)
    code = FLOW
    if next_run == "in another container":
        code = f"import socket\nsocket.gethostname = lambda: '4f2c81d0a3e9'\n{FLOW}"
    flow = start(sys.executable, "-c", code, str(flow_project), cwd=flow_project, PREFECT_API_URL=prefect_api)
    pids = _pids(flow_project, "a")
    assert mark_crashed(checkout, own_server=False) == [], "a living run was marked"
    flow.kill()
    flow.communicate()
    wait_for(lambda: not any(map(running, pids)), 20, f"the end of {pids}")
    assert mark_crashed(moved, own_server=False) == [], "on a shared server, it may be another checkout's"
    if next_run == "in another container":
        assert len(mark_crashed(checkout, own_server=False)) == 1
    else:
        assert len(mark_crashed(moved, own_server=True)) == 1
    assert mark_crashed(checkout, own_server=False) == []


def test_an_interrupted_flow_ends_its_processes(prefect_api, flow_project):
    (flow_project / "params.yaml").write_text(PARAMS_SLOW)
    flow = start(sys.executable, "-c", FLOW, str(flow_project), cwd=flow_project, PREFECT_API_URL=prefect_api)
    pids = _pids(flow_project, "a")
    flow.send_signal(signal.SIGINT)
    flow.communicate(timeout=60)
    assert flow.returncode != 0
    assert not any(map(running, pids))


@pytest.mark.parametrize(
    ("states", "needed"),
    [
        ({"train": "Cached", "evaluate": "Cached", "register": "Cached"}, True),
        ({"train": "Cached", "evaluate": "Cached", "register": "Ran"}, False),
        ({"evaluate": "Ran", "register": "Cached"}, False),
        ({"ingest": "Ran"}, False),
    ],
)
def test_the_flow_records_results_only_if_no_stage_did(states: dict[str, str], needed: bool) -> None:
    from pipelines.flow.flow import StageResult, needs_results

    results = [StageResult(stage=stage, state=state, seconds=1.0) for stage, state in states.items()]
    assert needs_results(results) is needed
