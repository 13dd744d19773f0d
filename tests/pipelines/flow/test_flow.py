"""Real flow runs of a toy pipeline on a real Prefect server."""

import signal
import sys
import threading
from contextvars import copy_context
from types import SimpleNamespace

import pytest

from pipelines.flow import process
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import running, start, wait_for

pytestmark = pytest.mark.prefect

FLOW = """
import sys
from pipelines.flow import process
from pipelines.flow.flow import pipeline_of
from pipelines.runtime.checkout import Checkout
process.GRACE_SECONDS = 1.0
pipeline_of(Checkout.at(sys.argv[1]))()
"""
PARAMS_SLOW = "fail: none\nseconds_a: 300\nseconds_b: 0\n"


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    """The toy's stages never end themselves; waiting for that tells nothing."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 1.0)


def _run(root, **parameters):
    from pipelines.flow.flow import pipeline_of

    return pipeline_of(Checkout.at(root))(return_state=True, **parameters)


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


def test_a_failing_stage_ends_the_flow_with_its_last_lines_after_its_retries(prefect_api, flow_project, caplog):
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
    assert last.told_by_command
    assert "NoneType" not in caplog.text, "a traceback of no exception"
    assert [(result.stage, result.state) for result in error.results] == [("first", "Failed")]
    assert not (flow_project / "b.pids").exists(), "a stage was run after one that failed"
    assert not running(_pids(flow_project, "a")[1]), "the failed stage's child was left behind"


def test_neither_the_log_nor_the_state_of_a_run_holds_a_secret(prefect_api, flow_project, monkeypatch):
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


def test_the_name_of_a_run_leads_nowhere_whatever_a_client_calls_it(monkeypatch):
    """It names a folder, which is removed at the end, and a DVC experiment."""
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


def test_a_stage_that_takes_too_long_is_ended(prefect_api, flow_project):
    params = flow_project / "params.yaml"
    params.write_text(PARAMS_SLOW + "flow: {timeout_s: {first: 8}}\n")
    state = _run(flow_project)
    assert state.is_failed()
    assert "longer than its limit of 8 s" in state.message
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


def test_a_killed_flow_ends_its_processes_and_is_marked_as_crashed_by_the_next(prefect_api, flow_project):
    from pipelines.flow.flow import mark_crashed

    (flow_project / "params.yaml").write_text(PARAMS_SLOW)
    flow = start(sys.executable, "-c", FLOW, str(flow_project), cwd=flow_project, PREFECT_API_URL=prefect_api)
    pids = _pids(flow_project, "a")
    assert mark_crashed(Checkout.at(flow_project)) == [], "a living run was marked"
    flow.kill()
    flow.communicate()
    wait_for(lambda: not any(map(running, pids)), 20, f"the end of {pids}")
    assert len(mark_crashed(Checkout.at(flow_project))) == 1
    assert mark_crashed(Checkout.at(flow_project)) == []


def test_an_interrupted_flow_ends_its_processes(prefect_api, flow_project):
    (flow_project / "params.yaml").write_text(PARAMS_SLOW)
    flow = start(sys.executable, "-c", FLOW, str(flow_project), cwd=flow_project, PREFECT_API_URL=prefect_api)
    pids = _pids(flow_project, "a")
    flow.send_signal(signal.SIGINT)
    flow.communicate(timeout=60)
    assert flow.returncode != 0
    assert not any(map(running, pids))
