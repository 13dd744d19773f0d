"""Pictures into pictures, the whole chain for real: Pix2Pix through Prefect and DVC; the other families stage by stage."""

import copy
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.files import read_json
from gan_core.training.trainer import Trainer
from pipelines.data import stage as data_stage
from pipelines.evaluation import stage as evaluation_stage
from pipelines.registry import stage as registry_stage
from pipelines.settings import parse_settings
from pipelines.stages.context import StageContext
from pipelines.stages.key import StageDefinition
from pipelines.stages.work import publish
from tests.checkout import clone, commit, newcomer, run
from tests.datasets import blobs
from tests.pipelines.tracking import database

PARAMS = {
    "data": {"name": "blobs"},
    "ingest": {
        "kind": "paired",
        "size": [32, 32],
        "channels": 3,
        "condition_channels": 1,
        "test_share": 0.3,
        "max_reject_share": 0.1,
    },
    "model": {"family": "pix2pix", "width": 8, "patch_width": 8, "patch_halvings": 1},
    "train": {"steps": 20, "batch": 4, "log_every": 10, "sample_every": 10, "checkpoint_every": 10, "mirror": True},
    "tune": {"trials": 0, "space": "auto"},
    "evaluate": {"samples": 8, "features": 64, "split": "test"},
    "register": {"name": "blobs"},
    "track": {"uri": "sqlite:///var/mlflow.db", "experiment": "test"},
    "flow": {"retries": 0, "retry_delay_s": 1},
}
COLOURS = {"red": (255, 50, 25), "green": (50, 230, 50), "blue": (25, 75, 255)}


def coloured(count: int, colour: str, seed: int) -> np.ndarray:
    """Blobs of a colour on black: uint8 (count, 32, 32, 3)."""
    return np.rint(blobs(count, 32, seed=seed).transpose(0, 2, 3, 1) * (np.array(COLOURS[colour]) / 255)).astype(
        np.uint8
    )


def write(folder: Path, pictures: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return folder


pytestmark = [pytest.mark.end_to_end, pytest.mark.weights]


@pytest.mark.ray
@pytest.mark.prefect
def test_pix2pix_goes_from_a_folder_of_pairs_to_a_version_that_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str, ray_cluster: str
) -> None:
    environment = {**newcomer(tmp_path / "cache"), "PREFECT_API_URL": prefect_api, "RAY_ADDRESS": ray_cluster}
    checkout = clone(tmp_path / "gantry", PARAMS, environment)
    write(tmp_path / "pairs/outline", 255 - coloured(32, "red", 0))
    write(tmp_path / "pairs/picture", coloured(31, "red", 0))  # one outline is without its picture
    run(["gantry", "data", "add", "blobs", str(tmp_path / "pairs")], checkout, environment)
    commit(checkout, environment)
    told = run(["gantry", "run"], checkout, environment)
    for stage in ("ingest", "tune", "train", "evaluate", "register"):
        assert f"[{stage}]" in told
    assert "Running stage" not in run(["dvc", "repro"], checkout, environment)

    info = PreparedDataset(checkout / "data/prepared").info
    assert (info.kind, info.condition_channels, sum(info.splits.values())) == ("paired", 1, 31)
    assert sum(info.rejects.values()) == 1
    assert len(list((checkout / "outputs/train/grids").glob("*.png"))) == 2

    measured = read_json(checkout / "outputs/evaluate/metrics.json")
    figures = {figure["name"]: figure for figure in measured["figures"]}
    assert {"fid", "kid", "l1", "psnr", "ssim"} <= set(figures)
    assert figures["fid"]["value"] == measured["fid"]["value"]
    assert all(figure["baseline"] is not None and figure["protocol"]["split"] == "test" for figure in figures.values())
    with Image.open(checkout / "outputs/evaluate/samples.png") as sheet:
        assert sheet.width == 3 * (64 + 2) + 2  # condition, translation, target

    import mlflow

    uri = f"sqlite:///{checkout / 'var/mlflow.db'}"
    client = mlflow.MlflowClient(uri, uri)
    runs = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    tracked = next(run for run in runs if run.info.run_name == "evaluate").data.metrics
    assert tracked["fid"] == measured["fid"]["value"]
    assert any(name.startswith("psnr") for name in tracked)

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        content = (tmp_path / "pairs/outline/000.png").read_bytes()
        answer = mlflow.pyfunc.load_model("models:/blobs@challenger").predict(pd.DataFrame({"image": [content]}))
        from pipelines.translate import translate

        monkeypatch.chdir(checkout)
        done = CliRunner().invoke(translate, ["blobs@challenger", str(tmp_path / "pairs/outline"), "translated"])
    finally:
        mlflow.set_tracking_uri(before)
    assert done.exit_code == 0, done.output
    assert len(list((checkout / "translated").iterdir())) == 32
    first = np.asarray(Image.open(checkout / "translated/000.png"))
    assert first.shape == (32, 32, 3)
    (tmp_path / "served.png").write_bytes(answer["png"][0])
    np.testing.assert_allclose(first.astype(int), np.asarray(Image.open(tmp_path / "served.png")), atol=1)


@pytest.mark.parametrize(
    ("family", "kind", "model"),
    [
        ("cyclegan", "unpaired", {"width": 4, "blocks": 1, "patch_width": 4, "patch_halvings": 1}),
        ("stargan", "domains", {"width": 4, "blocks": 1, "critic_width": 4}),
    ],
)
def test_the_stages_carry_the_other_families(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, family: str, kind: str, model: dict
) -> None:
    """What each stage does, in this process; what runs them is the same for every family."""
    names = ["red", "blue"] if kind == "unpaired" else list(COLOURS)
    for seed, name in enumerate(names):
        write(tmp_path / "data/raw/blobs" / name, coloured(12, name, seed))
    plain = copy.deepcopy(PARAMS)
    plain["ingest"] = {"kind": kind, "size": [32, 32], "channels": 3, "test_share": 0.4}
    plain["model"] = {"family": family, **model}
    plain["track"]["uri"] = database.copy_of(database.make_template(tmp_path_factory), tmp_path)
    settings = parse_settings(plain)
    settings.check_pictures()

    def stage(name: str, body: ModuleType) -> None:
        for out, result in body.run(context(tmp_path, name), settings).items():
            publish(result, tmp_path / out)

    stage("ingest", data_stage)
    prepared = PreparedDataset(tmp_path / "data/prepared")
    settings.check_data(prepared.info)
    assert prepared.info.kind == kind
    config = settings.train.core()
    trainer = Trainer(family, settings.model.config, prepared, config, tmp_path / "checkpoints", device="cpu")
    trainer.run(2)
    trainer.export(tmp_path / "outputs/train/generator")
    stage("evaluate", evaluation_stage)
    stage("register", registry_stage)

    measured = read_json(tmp_path / "outputs/evaluate/metrics.json")
    directions = len(names) * (len(names) - 1)
    assert measured["fid"]["protocol"]["direction"] == f"mean of {directions} directions"
    found = Counter(figure["name"] for figure in measured["figures"])
    assert found["fid"] == found["kid"] == found["cycle"] == directions + 1
    assert ("accuracy" in found) == (kind == "domains")
    with Image.open(tmp_path / "outputs/evaluate/samples.png") as sheet:
        assert sheet.width == (4 if kind == "unpaired" else 1 + len(names)) * (64 + 2) + 2
    registered = read_json(tmp_path / "outputs/register/registered.json")
    assert registered["alias"] == "challenger"


def context(root: Path, name: str) -> StageContext:
    """What the stage ``name`` is given."""
    work = root / "var/work" / name
    work.mkdir(parents=True)
    definition = StageDefinition(name=name, command=(), dependencies={}, parameters={}, outs=(), replayable=True)
    return StageContext(
        name=name, key=name, work=work, root=root, var=root / "var", pipeline_run="run", definition=definition
    )
