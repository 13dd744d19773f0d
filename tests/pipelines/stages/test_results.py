"""The run of the pipeline in MLflow shows everything by which two runs are compared, also if every stage was cached."""

import shutil
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from gan_core.files import write_json
from gan_core.metrics.assess import Assessment
from gan_core.metrics.protocol import Figure
from pipelines.evaluation.measure import metrics_json
from pipelines.registry.parent import Parent
from pipelines.runtime.checkout import CURVES, Checkout
from pipelines.runtime.key import read_stage
from pipelines.settings.schema import load_settings
from pipelines.stages.parent import pin_parent, recorded_inputs
from pipelines.stages.results import NOTE, record_results
from pipelines.tracking import RunLog, find_run, sync
from tests.pipelines.registry.conftest import PROTOCOL
from tests.pipelines.settings_example import ROOT
from tests.pipelines.toy import make_project, run

STAGES = "stages:\n" + "".join(
    f"  {name}: {{cmd: 'true', deps: [data.txt], outs: [{name}.out]}}\n"
    for name in ("ingest", "tune", "train", "evaluate")
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the results of all stages."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["data"]["name"] = "cats | <dogs>"
    files = {"dvc.yaml": STAGES, "params.yaml": yaml.safe_dump(params), "data.txt": "x"}
    root = make_project(tmp_path_factory.mktemp("results") / "project", files)
    fid = Figure(name="fid", value=12.5, low=11.0, high=14.0, protocol=PROTOCOL, generator_digest="f" * 64)
    recall = Figure(name="recall", value=0.5, protocol=PROTOCOL, generator_digest="f" * 64, higher_is_better=True)
    write_json(root / "outputs/evaluate/metrics.json", metrics_json(Assessment(fid, (fid, recall))))
    Image.new("L", (8, 8)).save(root / "outputs/evaluate/samples.png")
    write_json(root / "outputs/tune/best.json", {"parameters": {"train.generator_lr": 1e-4}})
    write_json(root / "outputs/train/generator/generator.json", {"step": 3000})
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A copy of the project, which is tracked in a database of its own."""
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    return Checkout.at(shutil.copytree(template, tmp_path / "project"))


def trained(checkout: Checkout, parent: Parent | None = None) -> None:
    """The log of the run of the train stage, which ran earlier for another run of the pipeline, perhaps from ``parent`` on."""
    definition = read_stage("train", checkout)
    if parent:
        pin_parent(definition, checkout, parent)
    key = definition.with_inputs(recorded_inputs(definition, checkout)).key
    with RunLog(checkout.events, key=key, name="train", parent_key="earlier") as log:
        log.set_tags({"gantry.device": "TPU", "gantry.workers": 2, "gantry.torch_version": "9.9"})
        log.log_params({"model": {"family": "dcgan", "slope": 0.3}, "train": {"generator_lr": 0.002, "num_workers": 2}})
        cost = {
            "wall_seconds": 60,
            "device_seconds": 80,
            "kimg": 19.2,
            "images_per_second": 480,
            "peak_memory_gib": 1.5,
        }
        log.log_metrics({f"cost/{name}": value for name, value in cost.items()}, 3000)


def pipeline_run(checkout: Checkout, uri: str):
    sync(checkout.events, tracking_uri=uri, experiment="gantry")
    found = find_run(uri, "gantry", "second-run")
    assert found
    return MlflowClient(uri).get_run(found.run_id)


def test_a_run_of_cached_stages_shows_settings_figures_cost_and_files(checkout: Checkout, uri: str) -> None:
    trained(checkout)
    record_results(checkout, load_settings(checkout.params), "second-run")
    found = pipeline_run(checkout, uri)
    params, metrics, tags = found.data.params, found.data.metrics, found.data.tags
    assert params["data"] == "cats | <dogs>"
    # As the train stage resolved them, not as in params.yaml.
    assert (params["model.slope"], params["train.generator_lr"]) == ("0.3", "0.002")
    assert params["evaluate.samples"] == "600"
    assert "train.num_workers" not in params, "no two runs are compared by it"
    assert {name: metrics[name] for name in ("fid", "fid.low", "fid.high", "recall")} == {
        "fid": 12.5,
        "fid.low": 11.0,
        "fid.high": 14.0,
        "recall": 0.5,
    }
    assert metrics["cost/device_seconds"] == 80
    assert metrics["cost/peak_memory_gib"] == 1.5
    assert (tags["gantry.device"], tags["gantry.torch_version"]) == ("TPU", "9.9"), "those that trained, not those here"
    assert "12.5 | 11 to 14" in tags[NOTE]
    assert "cats \\| &lt;dogs>" in tags[NOTE]
    artifacts = {file.path for file in MlflowClient(uri).list_artifacts(found.info.run_id)}
    assert artifacts == {"samples.png", "metrics.json", "dvc.lock", "images"}
    (image,) = (
        file.path
        for file in MlflowClient(uri).list_artifacts(found.info.run_id, "images")
        if file.path.endswith(".png")
    )
    assert Path(image).name.startswith("samples+step+0+"), "MLflow's charts open at step 0"


def test_the_data_of_a_run_is_what_it_was_prepared_from_even_if_more_was_added_since(
    checkout: Checkout, uri: str
) -> None:
    """As after ``gantry data add`` while training runs."""
    write_json(checkout.prepared / "dataset.json", {"name": "cats", "digest": "p" * 64})
    checkout.raw.mkdir(parents=True)
    checkout.raw_pointer("cats").write_text(yaml.safe_dump({"outs": [{"md5": "new.dir", "path": "cats"}]}))
    ingest = {"cmd": "true", "deps": [{"path": "data/raw/cats", "hash": "md5", "md5": "old.dir"}]}
    checkout.dvc_lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": {"ingest": ingest}}))
    trained(checkout)
    record_results(checkout, load_settings(checkout.params), "second-run")
    assert pipeline_run(checkout, uri).data.params["data.digest"] == "old.dir"


def test_training_that_started_from_another_run_is_found(checkout: Checkout, uri: str) -> None:
    parent = Parent(name="cats/1", digest="d" * 64, images_seen=9600)
    trained(checkout, parent)
    record_results(checkout, load_settings(checkout.params), "second-run")
    found = pipeline_run(checkout, uri).data
    assert found.params["train.generator_lr"] == "0.002"
    assert found.metrics["cost/device_seconds"] == 80


def test_a_generator_whose_training_is_not_recorded_has_the_best_settings_of_the_search(
    checkout: Checkout, uri: str
) -> None:
    record_results(checkout, load_settings(checkout.params), "second-run")
    found = pipeline_run(checkout, uri)
    assert found.data.params["train.generator_lr"] == "0.0001"
    assert "not known here" in found.data.tags[NOTE]
    assert not [name for name in found.data.metrics if name.startswith("cost/")]


@pytest.mark.parametrize(("curves", "steps"), [("step,loss\n20,1\n5400,1\n", "5400"), (None, "unknown")])
def test_a_run_with_a_time_budget_has_the_steps_of_its_curves_or_none(
    checkout: Checkout, uri: str, curves: str | None, steps: str
) -> None:
    params = yaml.safe_load(checkout.params.read_text(encoding="utf-8"))
    del params["train"]["steps"]
    params["train"]["minutes"] = 15
    checkout.params.write_text(yaml.safe_dump(params), encoding="utf-8")
    if curves:
        checkout.out(CURVES).write_text(curves, encoding="utf-8")
    record_results(checkout, load_settings(checkout.params), "second-run")
    found = pipeline_run(checkout, uri).data
    assert (found.params["train.minutes"], found.params["train.steps"]) == ("15", steps)
    assert f"{steps} steps (in 15 minutes)" in found.tags[NOTE]


def test_recording_twice_sends_each_metric_once(checkout: Checkout, uri: str) -> None:
    for _ in range(2):
        record_results(checkout, load_settings(checkout.params), "second-run")
    found = pipeline_run(checkout, uri)
    assert len(MlflowClient(uri).get_metric_history(found.info.run_id, "fid")) == 1


def test_results_are_recorded_while_the_server_is_away(checkout: Checkout, uri: str) -> None:
    """The module, as the flow runs it. The events reach the server later."""
    away = {"GANTRY_TRACKING_URI": "http://127.0.0.1:9", "GANTRY_PIPELINE_RUN": "second-run"}
    done = run("python", "-m", "pipelines.stages.results", cwd=checkout.root, **away)
    assert "Cannot send events to the tracking server" in done.stdout
    assert pipeline_run(checkout, uri).data.metrics["fid"] == 12.5


def test_a_damaged_file_gives_one_line(checkout: Checkout) -> None:
    checkout.metrics.write_text("{")
    done = run("python", "-m", "pipelines.stages.results", cwd=checkout.root, check=False)
    assert done.returncode == 1
    assert "metrics.json is damaged" in done.stdout
    assert "Traceback" not in done.stdout
