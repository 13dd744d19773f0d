"""End-to-end tests of image translation: Pix2Pix through DVC, and the stages of CycleGAN and StarGAN in one process (slow).

DVC, Prefect and the processes of the stages are the same for every family; test_end_to_end.py runs them all.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.files import read_json
from gan_core.presets.recipes import RECIPES
from tests.checkout import clean_environment, clone, commit, run
from tests.datasets import blobs

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
    "evaluate": {"objective": "fid", "samples": 8, "features": 64},
    "register": {"name": "blobs"},
    "track": {"uri": "sqlite:///var/mlflow.db", "experiment": "test"},
    "flow": {"retries": 0, "retry_delay_s": 1},
}
COLOURS = {"red": (255, 50, 25), "green": (50, 230, 50), "blue": (25, 75, 255)}


def coloured(count: int, colour: str, seed: int) -> np.ndarray:
    """Coloured blobs on black: uint8 (count, 32, 32, 3)."""
    return np.rint(blobs(count, 32, seed=seed).transpose(0, 2, 3, 1) * (np.array(COLOURS[colour]) / 255)).astype(
        np.uint8
    )


def write(folder: Path, pictures: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return folder


STAGES = ("ingest", "tune", "train", "evaluate", "register")
RUN_STAGES = """
import sys
from pathlib import Path
from pipelines.runtime.environment import set_up_environment
set_up_environment()
from pipelines.commands.stage import BODIES, _body
from pipelines.runtime.checkout import Checkout
from pipelines.stages.context import run_stage
assert Path(sys.modules["pipelines"].__file__).is_relative_to(Path.cwd())
for name in BODIES:
    run_stage(name, _body, Checkout.at(), guard=False)
"""
"""Does what the commands of dvc.yaml do, in their order, and imports torch, MLflow and Ray once."""


pytestmark = [pytest.mark.end_to_end, pytest.mark.ray, pytest.mark.weights]


def test_pix2pix_from_a_folder_of_pairs_to_a_version_that_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: str
) -> None:
    environment = {**clean_environment(tmp_path / "cache"), "RAY_ADDRESS": ray_cluster}
    checkout = clone(tmp_path / "gantry", PARAMS, environment)
    write(tmp_path / "pairs/outline", 255 - coloured(32, "red", 0))
    write(tmp_path / "pairs/picture", coloured(31, "red", 0))  # one outline has no picture
    run(["gantry", "data", "add", "blobs", str(tmp_path / "pairs")], checkout, environment)
    commit(checkout, environment)
    told = run(["dvc", "repro"], checkout, environment)
    assert [line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")] == list(STAGES)
    assert "up to date" in run(["dvc", "status", *STAGES], checkout, environment), "a second run would run stages again"

    info = PreparedDataset(checkout / "data/prepared").info
    assert (info.kind, info.condition_channels, sum(info.splits.values())) == ("paired", 1, 31)
    assert sum(info.rejects.values()) == 1
    assert len(list((checkout / "outputs/train/grids").glob("*.png"))) == 3

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
        from pipelines.commands.translate import translate

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "model"),
    [
        ("cyclegan", "unpaired", {"width": 4, "blocks": 1, "patch_width": 4, "patch_halvings": 1}),
        ("stargan", "domains", {"width": 4, "blocks": 1, "critic_width": 4}),
    ],
)
def test_cyclegan_and_stargan_from_folders_to_a_version_that_translates(
    tmp_path: Path, ray_cluster: str, family: str, kind: str, model: dict
) -> None:
    environment = {**clean_environment(tmp_path / "cache"), "RAY_ADDRESS": ray_cluster}
    names = ["red", "blue"] if kind == "unpaired" else list(COLOURS)
    searched = {"trials": 2, "steps": 4, "report_every": 2, "samples": 8, "features": 64, "space": "auto"}
    params = {
        **PARAMS,
        "ingest": {"kind": kind, "size": [32, 32], "channels": 3, "test_share": 0.4},
        "model": {"family": family, **model},
        "train": {"steps": 4, "batch": 4, "log_every": 2, "sample_every": 2, "checkpoint_every": 2},
        "tune": searched,
    }
    checkout = clone(tmp_path / "gantry", params, environment)
    for seed, name in enumerate(names):
        write(tmp_path / "domains" / name, coloured(12, name, seed))
    run(["gantry", "data", "add", "blobs", str(tmp_path / "domains")], checkout, environment)
    run([sys.executable, "-c", RUN_STAGES], checkout, environment)

    assert PreparedDataset(checkout / "data/prepared").info.kind == kind
    assert set(read_json(checkout / "outputs/tune/best.json")["parameters"]) == set(RECIPES[family].search)
    measured = read_json(checkout / "outputs/evaluate/metrics.json")
    directions = len(names) * (len(names) - 1)
    assert measured["fid"]["protocol"]["direction"] == f"mean of {directions} directions"
    found = Counter(figure["name"] for figure in measured["figures"])
    assert found["fid"] == found["kid"] == found["cycle"] == directions + 1
    assert ("accuracy" in found) == (kind == "domains")
    with Image.open(checkout / "outputs/evaluate/samples.png") as sheet:
        assert sheet.width == (4 if kind == "unpaired" else 1 + len(names)) * (64 + 2) + 2
    assert read_json(checkout / "outputs/register/registered.json")["alias"] == "challenger"
    picture = str(tmp_path / "domains" / names[-1] / "000.png")
    command = ["gantry", "translate", "blobs@challenger", picture, "translated.png", "--target", names[0]]
    run(command, checkout, environment)
    with Image.open(checkout / "translated.png") as translated:
        assert translated.size == (32, 32)
