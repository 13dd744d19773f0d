"""``gantry run`` and ``gantry serve`` as commands, on a real Prefect server."""

import asyncio
import signal
import sys
from contextlib import suppress

import pytest
from click.testing import CliRunner

from gan_core.errors import GantryError, SettingsError, StageError
from pipelines.commands import run as cli
from pipelines.commands.run import run, serve, summary, ui
from pipelines.flow.flow import StageResult, pipeline_flow
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import dvc, make_project, start, wait_for
from tests.pipelines.toy import run as run_command

GANTRY = (sys.executable, "-c", "from pipelines.cli import main; main()")


def test_set_without_revision_is_an_error(flow_project, monkeypatch):
    monkeypatch.chdir(flow_project)
    result = CliRunner().invoke(run, ["--set", "seconds_a=1"])
    assert isinstance(result.exception, StageError)
    assert "--revision HEAD" in str(result.exception)


def test_a_folder_without_dvc_yaml_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(run, [])
    assert isinstance(result.exception, StageError)
    assert "no dvc.yaml" in str(result.exception)


def test_settings_are_checked_before_anything_is_started(flow_project, monkeypatch):
    monkeypatch.chdir(flow_project)
    with (flow_project / "params.yaml").open("a") as params:
        params.write("flow: {retires: 1}\n")
    result = CliRunner().invoke(run, [])
    assert isinstance(result.exception, SettingsError)
    assert "'flow.retires'. Did you mean 'retries'" in str(result.exception)
    assert not (flow_project / "var").exists()


def test_an_invalid_schedule_is_rejected_before_anything_starts(flow_project, monkeypatch):
    monkeypatch.chdir(flow_project)
    result = CliRunner().invoke(serve, ["--cron", "nonsense"])
    assert isinstance(result.exception, SettingsError)
    assert "'nonsense' must have five fields" in str(result.exception)
    assert not (flow_project / "var").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--revision", "nope"], "There is no revision 'nope'"),
        (["--set", "second_a=1"], "There is no setting 'second_a' in params.yaml. Did you mean 'seconds_a'"),
    ],
    ids=["revision", "setting"],
)
def test_a_schedule_that_could_never_run_is_rejected(flow_project, monkeypatch, words, message):
    monkeypatch.chdir(flow_project)
    result = CliRunner().invoke(serve, ["--cron", "0 3 * * *", *words])
    assert isinstance(result.exception, GantryError)
    assert message in str(result.exception)
    assert not list((flow_project / "var").glob("worktrees/*"))


def test_a_schedule_whose_server_has_ended_raises_an_error(monkeypatch):
    class Runner:
        started = True

        async def start(self):
            await asyncio.Event().wait()

    monkeypatch.setattr(cli, "SERVER_CHECK_SECONDS", 0.01)
    gone = [False, True, False, True, True, True]
    monkeypatch.setattr(cli, "is_gone", lambda url, auth: gone.pop(0))
    with pytest.raises(StageError, match="server at http://gone/api has ended, and the schedule with it"):
        asyncio.run(cli._serve(Runner(), "http://gone/api"))
    assert gone == [], "a server that is started again at once is not gone"


def test_a_run_whose_server_stops_answering_raises_an_error_with_a_remedy(flow_project, monkeypatch):
    from pipelines.flow import flow, owner

    def away(*_, **__):
        raise ConnectionError("All connection attempts failed")

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(flow, "pipeline_flow", lambda root: away)
    monkeypatch.setattr(owner, "mark_crashed", lambda root, **_: [])
    with pytest.raises(
        StageError, match=r"server at http://127.0.0.1:9/api stopped answering .*PREFECT_API_URL names it"
    ):
        cli.run_pipeline(Checkout.at(flow_project), [], None, {})


def test_the_summary_has_a_line_for_each_stage():
    results = [
        StageResult(stage="ingest", state="Cached", seconds=2.04),
        StageResult(stage="train", state="Ran", seconds=123.4),
    ]
    assert summary(results).splitlines() == ["ingest  Cached          2.0 s", "train   Ran           123.4 s"]
    assert summary([]) == "No stage ran."


@pytest.mark.prefect
def test_gantry_run_prints_each_stage_and_the_error_of_a_failed_one(prefect_api, flow_project):
    done = run_command(*GANTRY, "run", "first", cwd=flow_project, PREFECT_API_URL=prefect_api)
    assert "first  Ran" in done.stdout.splitlines()[-1]
    params = flow_project / "params.yaml"
    params.write_text(params.read_text().replace("fail: none", "fail: b"))
    done = run_command(*GANTRY, "run", cwd=flow_project, check=False, PREFECT_API_URL=prefect_api)
    assert done.returncode == 1
    assert "first   Cached" in done.stdout
    assert "second  Failed" in done.stdout
    told = done.stdout.splitlines()[-3:]
    assert told[:2] == ["error: Stage 'second' failed (status 255).", "the trouble with b"]
    assert told[2].startswith(f"Its whole output is in {flow_project / 'var' / 'logs'}")
    assert done.stdout.count("the trouble with b") == 1, "an error is told once"
    assert "Traceback" not in done.stdout


def _order(client, deployment, parameters) -> str:
    """The id of a run that is ordered with ``parameters``; the client asks the server not to check them."""
    order = {"parameters": parameters, "enforce_parameter_schema": False, "state": {"type": "SCHEDULED"}}
    return client.request("POST", f"/deployments/{deployment}/create_flow_run", json=order).json()["id"]


def test_the_checkout_is_not_a_parameter_of_its_flow(flow_project):
    assert set(pipeline_flow(Checkout.at(flow_project)).parameters.properties) == {"stages", "revision", "overrides"}


@pytest.mark.prefect
def test_a_scheduled_run_works_in_a_worktree_and_records_an_experiment(prefect_api, flow_project):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound

    name = flow_project.parent.name
    mine = flow_project.parent / "ran"
    another = make_project(
        flow_project.parent / "another",
        {"dvc.yaml": f"stages:\n  mine:\n    cmd: touch {mine}\n    outs: [{mine}]\n", "params.yaml": "{}\n"},
    )
    unused = "outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e\n  size: 0\n  hash: md5\n  path: unused\n"
    (flow_project / "unused.dvc").write_text(unused)  # a dataset that the pipeline does not need, and that is not here
    run_command("git", "add", "-A", cwd=flow_project)
    run_command("git", "commit", "-qm", "another dataset", cwd=flow_project)
    command = (*GANTRY, "serve", "--cron", "0 3 * * *", "--name", name, "--limit", "3", "--set", "seconds_b=0.5")
    process = start(*command, cwd=flow_project, PREFECT_API_URL=prefect_api, PREFECT_RUNNER_POLL_FREQUENCY="1")
    try:
        with get_client(sync_client=True) as client:
            found = []

            def deployed() -> bool:
                with suppress(ObjectNotFound):
                    found.append(client.read_deployment_by_name(f"pipeline/{name}"))
                return bool(found)

            wait_for(deployed, 90, "the deployment")
            deployment = found[0].id
            chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))

            def planned() -> list:
                runs = client.read_flow_runs(deployment_filter=chosen, limit=5, sort=FlowRunSort.START_TIME_DESC)
                return [one for one in runs if one.state.is_scheduled()]

            wait_for(planned, 60, "the planning of scheduled runs")
            ordered = client.create_flow_run_from_deployment(deployment).id
            # The server takes it; the flow has no such parameter, and its process ends before it does anything.
            refused = _order(client, deployment, {"checkout": str(another)})
            wait_for(lambda: client.read_flow_run(ordered).state.is_final(), 120, "the end of the run")
            finished = client.read_flow_run(ordered)
            assert finished.state.is_completed(), finished.state.message
            wait_for(lambda: client.read_flow_run(refused).state.is_final(), 120, "the end of the refused run")
            state = client.read_flow_run(refused).state
            assert not state.is_completed(), "a client chose the checkout"
            assert "exited with status code: 1" in state.message
        assert not mine.exists(), "a client chose what code runs"
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert "Deployment pipeline/" in output
    assert "Stopping." in output
    assert output.count("Traceback") == output.count("SignatureMismatchError: "), (
        "more than the unknown parameter failed"
    )
    assert finished.name in dvc("exp", "list", "--name-only", cwd=flow_project).stdout
    assert not (flow_project / "b").exists(), "the run worked in the checkout"
    assert not list((flow_project / "var" / "worktrees").iterdir())


def test_only_a_port_given_by_the_user_is_required():
    chosen = ui.make_context("ui", []).params | serve.make_context("serve", ["--cron", "0 3 * * *"]).params
    assert {name: port for name, port in chosen.items() if "port" in name} == dict.fromkeys(
        ["mlflow_port", "prefect_port", "port"]
    )
