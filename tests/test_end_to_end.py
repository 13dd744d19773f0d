"""End-to-end test: digits through Prefect and DVC with 2 Ray Train workers, up to a served model version."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from gan_core.files import read_json
from pipelines.tracking.images import parse_image_name
from tests.checkout import clean_environment, clone, commit, run
from tests.pipelines.toy import command_line

PARAMS = {
    "data": {"name": "digits"},
    "ingest": {"size": [16, 16], "channels": 1, "fit": "stretch", "max_reject_share": 0.2, "workers": 2},
    "model": {"family": "dcgan", "width": 8, "latent": 16},
    "train": {
        "steps": 60,
        "batch": 32,
        "log_every": 10,
        "sample_every": 30,
        "checkpoint_every": 20,
        "num_workers": 2,
    },
    "tune": {
        "trials": 2,
        "steps": 20,
        "report_every": 10,
        "samples": 16,
        "features": 64,
        "space": {
            "train.generator_lr": {"type": "log", "low": 1e-4, "high": 1e-3},
            "model.slope": {"type": "uniform", "low": 0.0, "high": 0.4},
        },
    },
    "evaluate": {"objective": "fid", "samples": 32, "real": 32, "features": 2048, "batch": 16},
    "register": {"name": "digits"},
    "track": {"uri": "sqlite:///var/mlflow.db", "experiment": "test"},
    "flow": {"retries": 0, "retry_delay_s": 1},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a new user."""
    return clean_environment(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A clone with settings for a small run on digits."""
    root = clone(tmp_path_factory.mktemp("e2e") / "gantry", PARAMS, environment)
    run(["gantry", "data", "fetch", "digits"], root, environment)
    commit(root, environment)
    return root


@pytest.fixture(scope="module")
def first_run(checkout: Path, environment: dict[str, str]) -> str:
    """Output of the first run of the flow."""
    return run(["gantry", "run"], checkout, environment, timeout=900)


pytestmark = [pytest.mark.end_to_end, pytest.mark.ray, pytest.mark.prefect, pytest.mark.weights]


def test_every_stage_runs_and_writes_its_results(checkout: Path, first_run: str) -> None:
    for stage in ("ingest", "tune", "train", "evaluate", "register"):
        assert stage in first_run
    assert (checkout / "outputs/evaluate/samples.png").is_file()
    assert len(list((checkout / "outputs/train/grids").glob("*.png"))) == 3
    fid = read_json(checkout / "outputs/evaluate/metrics.json")["fid"]
    assert fid["value"] > 0
    assert fid["protocol"]["fake_count"] == 32
    best = read_json(checkout / "outputs/tune/best.json")["parameters"]
    assert set(best) == set(PARAMS["tune"]["space"])


def test_the_run_prints_no_warning_of_python(first_run: str) -> None:
    assert "Warning:" not in first_run, first_run


def test_nothing_is_written_to_the_home_folder(environment: dict[str, str], first_run: str) -> None:
    written = {path.name for path in Path(environment["HOME"]).iterdir()}
    # pip, which downloads the weights, asks rustc for its version, and rustup creates this folder.
    assert written <= {".rustup"}


def test_a_second_run_runs_no_stage(checkout: Path, environment: dict[str, str], first_run: str) -> None:
    lock = (checkout / "dvc.lock").read_bytes()
    output = run(["dvc", "repro"], checkout, environment)
    assert "Running stage" not in output
    assert (checkout / "dvc.lock").read_bytes() == lock


def test_the_champion_is_made_again_to_the_byte(checkout: Path, environment: dict[str, str], first_run: str) -> None:
    run(["gantry", "promote", "digits", "--version", "1"], checkout, environment)
    output = run(["gantry", "reproduce", "digits@champion"], checkout, environment, timeout=600)
    assert "digits/1 of commit" in output
    assert "is the same to the byte" in output
    for out in (
        "data/prepared",
        "outputs/train/generator",
        "outputs/evaluate/metrics.json",
        "outputs/evaluate/samples.png",
    ):
        assert any(line.split()[1:] == [out, "same"] for line in output.splitlines()), output[-3000:]
    assert not list((checkout / "var/worktrees").iterdir())
    assert "reproduce" not in run(["git", "worktree", "list"], checkout, environment)


def test_changing_the_sample_count_runs_only_evaluate_and_register(
    checkout: Path, environment: dict[str, str], first_run: str
) -> None:
    changed = {**PARAMS, "evaluate": {**PARAMS["evaluate"], "samples": 24}}
    (checkout / "params.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    output = run(["dvc", "repro"], checkout, environment)
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]
    assert ran == ["evaluate", "register"]
    shown = json.loads(run(["dvc", "metrics", "show", "--json"], checkout, environment).splitlines()[-1])
    assert '"fake_count": 24' in json.dumps(shown)


def test_mlflow_has_one_pipeline_run_with_nested_stages_and_trials(checkout: Path, first_run: str) -> None:

    client = MlflowClient(f"sqlite:///{checkout / 'var/mlflow.db'}")
    experiment = client.get_experiment_by_name("test")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    by_name = {run.info.run_name: run for run in runs}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 2  # that of the flow, and that of the run with a changed sample count
    for parent in parents:  # in the second run, training was cached
        assert parent.data.params["train.generator_lr"] == by_name["train"].data.params["train.generator_lr"]
        assert {"fid", "fid.low", "fid.high", "recall", "cost/device_seconds", "cost/peak_memory_gib"} <= set(
            parent.data.metrics
        )
        artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
        assert {"samples.png", "dvc.lock"} <= artifacts
        assert pictures(client, parent) == [("closest pairs", 0), ("samples", 0)]
    assert pictures(client, by_name["train"]) == [("grids", 0), ("grids", 30), ("grids", 60)]
    first = by_name["train"].data.tags["mlflow.parentRunId"]
    for stage in ("ingest", "tune", "train"):
        assert by_name[stage].data.tags["mlflow.parentRunId"] == first
        assert by_name[stage].info.status == "FINISHED"
    trials = [run for run in runs if run.data.tags.get("gantry.stage") == "trial"]
    assert len(trials) == 2
    for trial in trials:
        assert trial.data.tags["mlflow.parentRunId"] == by_name["tune"].info.run_id
        assert {"train.generator_lr", "model.slope"} <= set(trial.data.params), "for the charts of a search"
        assert "fid" in trial.data.metrics
        assert pictures(client, trial)[:2] == [("grids", 0), ("grids", 10)]
    history = client.get_metric_history(by_name["train"].info.run_id, "loss/generator")
    assert [metric.step for metric in history] == [10, 20, 30, 40, 50, 60]
    assert by_name["train"].inputs.dataset_inputs[0].dataset.name == "digits"


def pictures(client: MlflowClient, run: Run) -> list[tuple[str, int]]:
    """Keys and steps of the pictures of a run. MLflow's chart view opens at step 0, and is empty without a picture there."""
    names = [file.path.removeprefix("images/") for file in client.list_artifacts(run.info.run_id, "images")]
    return sorted(filter(None, map(parse_image_name, names)))


def test_the_version_loads_without_pickles_and_samples(
    checkout: Path, first_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    uri = f"sqlite:///{checkout / 'var/mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        model = mlflow.pyfunc.load_model("models:/digits@challenger")
    finally:
        # Later tests in this process use different registries.
        mlflow.set_tracking_uri(before)
    answer = model.predict(pd.DataFrame({"n": [3], "seed": [7]}))
    pictures = [Image.open(io.BytesIO(png)) for png in answer["png"]]
    assert [picture.size for picture in pictures] == [(16, 16)] * 3


def test_a_killed_dvc_repro_leaves_no_process_and_resumes(
    checkout: Path, environment: dict[str, str], first_run: str
) -> None:
    train = {**PARAMS["train"], "num_workers": 1, "steps": 240, "log_every": 5, "checkpoint_every": 40}
    longer = {**PARAMS, "train": train}
    (checkout / "params.yaml").write_text(yaml.safe_dump(longer), encoding="utf-8")
    finished = set((checkout / "var/work/train").glob("*/curves.jsonl"))
    command = [
        "dvc",
        "repro",
        "--single-item",
        "train",
    ]  # skip the search, which also depends on these settings
    repro = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and repro.poll() is None:
            running = set((checkout / "var/work/train").glob("*/curves.jsonl")) - finished
            if any(len(path.read_text().splitlines()) >= 10 for path in running):
                break
            time.sleep(0.1)
        family = psutil.Process(repro.pid).children(recursive=True)
        assert any("RayTrainWorker" in command_line(process) for process in family)
        os.kill(repro.pid, signal.SIGKILL)
        repro.wait()
        _, alive = psutil.wait_procs(family, timeout=45)
        assert not alive
    finally:
        for process in [*family, repro]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
    run(command, checkout, environment)
    (curves,) = set((checkout / "var/work/train").glob("*/curves.jsonl")) - finished
    steps = [json.loads(line)["step"] for line in curves.read_text().splitlines() if line.endswith("}")]
    assert steps.count(5) == 1, "training restarted instead of resuming"
    assert sorted(set(steps)) == list(range(5, 241, 5))


@pytest.fixture
def served(checkout: Path, environment: dict[str, str], first_run: str) -> Iterator[str]:
    """Address of `mlflow models serve` for the challenger."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["mlflow", "models", "serve", "-m", "models:/digits@challenger", "--env-manager", "local", "-p", str(port)],
        cwd=checkout,
        env={
            **environment,
            "MLFLOW_TRACKING_URI": f"sqlite:///{checkout / 'var/mlflow.db'}",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_served_version_returns_pngs(served: str) -> None:
    body = json.dumps({"dataframe_records": [{"n": 2, "seed": 1}]}).encode()
    request = urllib.request.Request(f"{served}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        rows = json.load(answer)["predictions"]
    assert len(rows) == 2
    assert Image.open(io.BytesIO(base64.b64decode(rows[0]["png"]))).size == (16, 16)
