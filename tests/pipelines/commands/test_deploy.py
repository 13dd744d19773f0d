"""``gantry deploy``, ``gantry backfill`` and a Prefect worker, on a real Prefect server, with a git remote and a DVC remote."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from click.testing import CliRunner

from gan_core.errors import SettingsError, StageError
from pipelines.commands.deploy import backfill, deploy
from pipelines.flow.data_event import check_publishable, publish_data
from pipelines.flow.serving import check_served_name, drop_outdated_runs, only_server
from pipelines.runtime.checkout import Checkout
from tests.pipelines.deployed import prefect_worker, push_project
from tests.pipelines.toy import dvc, start, wait_for
from tests.pipelines.toy import run as run_command

pytestmark = pytest.mark.prefect


@pytest.fixture
def pushed(flow_project, tmp_path):
    """A project whose data is versioned by DVC; its commits and data are on remotes."""
    push_project(flow_project, tmp_path / "remote" / "toy.git", data="raw")
    return flow_project


def _deploy(*words: str) -> str:
    result = CliRunner().invoke(deploy, words)
    if result.exception:
        raise result.exception
    return result.output


def _state(client, run_id) -> str:
    return client.read_flow_run(run_id).state.type.value


def test_a_deployment_is_applied_once_and_says_what_changed(prefect_api, pushed, monkeypatch):
    from prefect.client.orchestration import get_client

    monkeypatch.chdir(pushed)
    words = (
        "--name",
        "first-of-all",
        "--cron",
        "0 3 * * *",
        "--timezone",
        "Europe/Berlin",
        "--pool",
        "one",
        "--tag",
        "toy",
    )
    said = _deploy(*words)
    assert "work pool added: one (process)" in said
    assert "deployment added: pipeline/first-of-all" in said
    assert "prefect.yaml: written; commit it" in said
    assert "at most 1 at a time (another one waits)" in said
    text = (pushed / "prefect.yaml").read_text()
    assert str(pushed) not in text, "a path of this checkout"
    entry = yaml.safe_load(text)["deployments"][0]
    assert entry["schedules"] == [{"cron": "0 3 * * *", "timezone": "Europe/Berlin", "active": True}]

    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name("pipeline/first-of-all")
        assert there.tags == ["gantry", "toy"]
        assert there.parameters == {"revision": "main", "stages": [], "overrides": {}}
        assert there.global_concurrency_limit.limit == 1
        assert there.concurrency_options.collision_strategy.value == "ENQUEUE"
        form = there.parameter_openapi_schema["properties"]
        assert form["revision"]["type"] == "string"
        assert "Branch, tag or commit" in form["revision"]["description"]
        owned = client.read_resource_related_automations(f"prefect.deployment.{there.id}")
        assert len(owned) == 3

    assert "Nothing changed." in _deploy()
    said = _deploy("--cron", "30 4 * * *", "--collision", "cancel-new")
    assert "'0 3 * * *'" in said
    assert "'30 4 * * *'" in said
    assert "collision strategy: ENQUEUE -> CANCEL_NEW" in said
    assert "Europe/Berlin" in (pushed / "prefect.yaml").read_text(), "the zone stays"

    said = _deploy("--remove")
    assert "deployment removed: pipeline/first-of-all" in said
    assert said.count("automation removed") == 3
    assert not (pushed / "prefect.yaml").exists()
    with pytest.raises(StageError, match="There is no deployment 'nightly'"):
        _deploy("--remove")


def test_a_deployment_changes_hands_only_if_nobody_else_runs_it(prefect_api, flow_project, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    monkeypatch.chdir(flow_project)
    checkout, words = Checkout.at(flow_project), ("--name", "hands", "--cron", "0 3 * * *", "--local")
    with get_client(sync_client=True) as client:
        # As gantry serve leaves it when it ends.
        flow = client.create_flow_from_name("pipeline")
        nightly = [DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * *"), active=True)]
        served = client.create_deployment(flow_id=flow, name="hands", schedules=nightly)
        client.pause_deployment(served)
        check_served_name(checkout, "hands")
        ordered = client.create_flow_run_from_deployment(served, parameters={"revision": "main"})
        drop_outdated_runs(served, {"revision": "HEAD"})
        assert client.read_flow_run(ordered.id).state.is_scheduled(), "somebody has ordered it"
        with (
            only_server(checkout, "hands"),
            pytest.raises(StageError, match=r"already runs .*pipeline/hands .*process \d"),
        ):
            _deploy(*words)
        _deploy(*words)
        assert not client.read_deployment(served).paused, "no scheduled run would start"
        with pytest.raises(StageError, match="belongs to the workers of pool gantry .* --remove --name hands"):
            check_served_name(checkout, "hands")

        client.pause_deployment(served)
        assert "pipeline/hands is paused on the server" in _deploy("--name", "hands")
        assert client.read_deployment(served).paused, "as somebody has left it on purpose"

    (flow_project / "prefect.yaml").unlink()  # as in another project
    run_command("git", "remote", "add", "origin", "https://git.example/another.git", cwd=flow_project)
    with pytest.raises(
        StageError, match=r"a deployment pipeline/hands, which runs another project \(the checkout of a wor"
    ):
        _deploy("--name", "hands", "--cron", "0 3 * * *", "--clone", "--revision", "main")


def test_a_deployment_of_another_flow_is_not_overwritten(flow_project, monkeypatch):
    monkeypatch.chdir(flow_project)
    text = "# mine\nname: toy\ndeployments:\n- name: nightly\n  entrypoint: flows.py:mine\n"
    (flow_project / "prefect.yaml").write_text(text)
    for words in (["--cron", "0 3 * * *"], ["--name", "nightly", "--remove"]):
        with pytest.raises(StageError, match=r"'nightly' of another flow \(flows.py:mine\)"):
            _deploy(*words)
    assert (flow_project / "prefect.yaml").read_text() == text


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--cron", "nonsense"], SettingsError, "must have five fields"),
        (["--revision", "nope"], StageError, "There is no revision 'nope'"),
        (["--set", "seconds_a=1"], SettingsError, "only settings of model, train"),
        (["--clone"], StageError, "has no git remote 'origin'"),
        (["--cron", "0 3 * * *", "--no-schedule"], SettingsError, "contradict"),
    ],
)
def test_a_deployment_that_could_never_run_is_rejected(flow_project, monkeypatch, words, error, message):
    monkeypatch.chdir(flow_project)
    with pytest.raises(error, match=message):
        _deploy(*words)
    assert not (flow_project / "prefect.yaml").exists()


def test_a_worker_without_a_checkout_runs_it_and_pushes_the_results(prefect_api, pushed, monkeypatch, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    monkeypatch.chdir(pushed)
    _deploy("--name", "cold", "--pool", "cold", "--no-schedule")
    head = run_command("git", "rev-parse", "HEAD", cwd=pushed).stdout.strip()
    first = CliRunner().invoke(backfill, ["--name", "cold", "HEAD~1..HEAD"], catch_exceptions=False).output
    assert first.split()[:2] == [head[:12], "ordered"]
    again = CliRunner().invoke(backfill, ["--name", "cold", "HEAD"], catch_exceptions=False).output
    assert again.split()[:2] == [head[:12], "there"], "each revision at most once"

    with get_client(sync_client=True) as client, prefect_worker("cold", tmp_path / "host"):
        deployment = client.read_deployment_by_name("pipeline/cold")
        mine = DeploymentFilter(name=DeploymentFilterName(any_=["cold"]))
        (run,) = client.read_flow_runs(deployment_filter=mine, sort=FlowRunSort.ID_DESC, limit=200)
        gone = client.create_flow_run_from_deployment(deployment.id, parameters={"revision": "gone"})
        ended = ("COMPLETED", "FAILED", "CRASHED")
        wait_for(lambda: _state(client, run.id) in ended, 120, "the end of the run")
        assert _state(client, run.id) == "COMPLETED", client.read_flow_run(run.id).state.message
        wait_for(lambda: _state(client, gone.id) in ended, 90, "the end of the run of a revision that is gone")
        state = client.read_flow_run(gone.id).state
        assert state.type.value == "FAILED"
        assert "Revision 'gone' is not in file://" in state.message
        assert "Push it (git push origin gone)" in state.message

    refs = run_command("git", "for-each-ref", "refs/exps", cwd=tmp_path / "remote" / "toy.git").stdout
    assert f"backfill-{head[:12]}" in refs, "the experiment is in the repository"
    assert (tmp_path / "remote" / "store" / "runs").is_dir(), "the run cache is on DVC's remote"


def test_a_backfill_keeps_the_overrides_of_its_deployment():
    from pipelines.flow.deployment import run_parameters

    deployed = {"revision": "main", "stages": ["train"], "overrides": {"train.steps": 9, "train.seed": 1}}
    assert run_parameters(deployed, "0d1e", {"train.seed": 2}) == {
        "revision": "0d1e",
        "stages": ["train"],
        "overrides": {"train.steps": 9, "train.seed": 2},
    }


def test_published_data_and_an_event_from_outside_start_the_deployment(
    prefect_api, prefect_server, pushed, monkeypatch
):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    monkeypatch.chdir(pushed)
    _deploy("--name", "on-data", "--pool", "on-data", "--no-schedule")
    (pushed / "data" / "raw").mkdir(parents=True)
    (pushed / "data" / "raw" / "pictures").write_text("new")
    dvc("add", "-q", "data/raw/pictures", cwd=pushed)
    # As with the checkout's own server, which may end with the command.
    monkeypatch.setattr("pipelines.flow.data_event.connect_prefect", lambda *_, **__: nullcontext(prefect_server))
    told = publish_data(Checkout.at(pushed), "pictures")
    assert told[0] == "committed data/raw/pictures.dvc"
    assert told[-2:] == ["told the Prefect server (gantry.data.changed)", "pipeline/on-data has a new run"]
    here, there = (run_command("git", "rev-parse", name, cwd=pushed).stdout for name in ("HEAD", "origin/main"))
    assert here == there, "the commit is pushed"
    with get_client(sync_client=True) as client:
        mine = DeploymentFilter(name=DeploymentFilterName(any_=["on-data"]))

        def runs() -> int:
            return len(client.read_flow_runs(deployment_filter=mine, sort=FlowRunSort.ID_DESC, limit=200))

        assert runs() == 1
        resources = ("--resource-id", "gantry.data.pictures", "--resource", "gantry.project=toy")
        command = (sys.executable, "-m", "prefect", "event", "emit", "gantry.data.changed", *resources)
        run_command(*command, cwd=pushed, PREFECT_API_URL=prefect_api)
        # Long, because Prefect's server takes up an event that it failed to process only when the next one comes.
        wait_for(
            lambda: runs() == 2, 90, "the run that an event from outside starts", prefect_server.home / "server.log"
        )


def test_data_is_not_published_without_a_deployment_that_it_starts(flow_project):
    with pytest.raises(StageError, match="has no deployment that changed data starts"):
        check_publishable(Checkout.at(flow_project))


@contextmanager
def _receiver() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server on loopback: its address, and the bodies that it gets."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", bodies
        server.shutdown()


def test_a_local_worker_runs_in_the_checkout_and_a_block_is_told_of_a_failed_run(
    prefect_api, flow_project, monkeypatch
):
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client

    monkeypatch.chdir(flow_project)
    with _receiver() as (address, bodies), get_client(sync_client=True) as client:
        Webhook(url=address, allow_private_urls=True).save("pager", overwrite=True)
        with (flow_project / "params.yaml").open("a") as file:
            file.write("flow: {notify: webhook/pager}\n")
        _deploy("--name", "here", "--pool", "here", "--no-schedule")
        deployment = client.read_deployment_by_name("pipeline/here")
        command = (sys.executable, "-c", "from pipelines.cli import main; main()", "worker")
        worker = start(
            *command, cwd=flow_project, PREFECT_WORKER_QUERY_SECONDS="1", PREFECT_WORKER_PREFETCH_SECONDS="1"
        )
        try:
            run = client.create_flow_run_from_deployment(deployment.id)
            gone = client.create_flow_run_from_deployment(deployment.id, parameters={"revision": "gone"})
            wait_for(lambda: _state(client, run.id) in ("COMPLETED", "FAILED"), 120, "the end of the run")
            assert _state(client, run.id) == "COMPLETED", client.read_flow_run(run.id).state.message
            told = f"{gone.name} of deployment here: Failed"
            wait_for(lambda: any(told in body for body in bodies), 90, "the notification")
        finally:
            worker.send_signal(signal.SIGTERM)
            print(worker.communicate(timeout=60)[0][-4000:])
