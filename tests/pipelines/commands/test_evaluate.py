"""``gantry evaluate`` prints every figure of two sources, as a table, JSON or CSV."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from gan_core.checkpoint import save_checkpoint
from gan_core.config import build
from gan_core.errors import GantryError, SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.files import read_json
from gan_core.inference.description import DESCRIPTION, WEIGHTS
from gan_core.inference.generator import save_generator
from gan_core.metrics.inception import Extractor
from gan_core.metrics.neighbours import NAMES
from gan_core.metrics.protocol import Protocol
from pipelines.commands.evaluate import COLUMNS, evaluate
from pipelines.commands.fid import fid
from tests.datasets import blobs, write_prepared
from tests.gan_core.metrics.conftest import Averages
from tests.gan_core.metrics.test_sources import write_folder

N = 40


class Counting(Extractor):
    """Passes pictures on to another extractor, and counts them."""

    def __init__(self, inner: Extractor) -> None:
        self.inner, self.seen = inner, 0
        for name in ("features", "precision", "resize", "device", "batch_size", "digest"):
            setattr(self, name, getattr(inner, name))

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner.prepare(images)

    def extract(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen += len(inputs)
        return self.inner.extract(inputs)


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting(Averages())
    monkeypatch.setattr("gan_core.metrics.inception.load_inception", lambda *_: counting)
    return counting


def run(*arguments: object, command: object = evaluate) -> Result:
    result = CliRunner().invoke(command, [*map(str, arguments), "--device", "cpu"])
    if isinstance(result.exception, GantryError):
        raise result.exception
    return result


def generator(folder: Path, family: str = "dcgan", classes: int = 0, **model: object) -> Path:
    torch.manual_seed(0)
    made = build_family(
        family, family_config(family, model), ImageShape(channels=1, height=16, width=16, classes=classes)
    )
    save_generator(folder, family=made, extra={"classes": [str(index) for index in range(classes)]})
    return folder


def two_classes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dark blobs, and bright ones."""
    pixels, labels = blobs(count, seed=seed), np.arange(count) % 2
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return pixels, labels


def test_two_folders_have_every_figure_from_one_pass_of_each_in_json(tmp_path: Path, extractor: Counting) -> None:
    a, b = write_folder(tmp_path / "a", blobs(N)), write_folder(tmp_path / "b", blobs(N + 50, seed=1))
    result = run(a, b, "--json")
    assert result.exit_code == 0, result.output
    assert extractor.seen == 2 * N + 50
    found = json.loads(result.stdout)
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert list(figures) == ["fid", "kid", *NAMES, "fid_infinity", "memorisation"]
    for name, figure in figures.items():
        assert figure["low"] <= figure["value"] <= figure["high"], name
        assert build(Protocol, figure["protocol"]).metric == name
    assert set(found["not_measured"]) == {
        *("inception_score", "fid_class", "class_agreement", "class_training", "ppl_z", "ppl_w")
    }
    assert "a has no classes" in found["not_measured"]["class_agreement"]
    short = json.loads(run(a, b, "--json", command=fid).stdout)
    assert (short["value"], short["protocol_digest"]) == (figures["fid"]["value"], figures["fid"]["protocol_digest"])


def test_the_table_and_the_csv_have_the_same_figures(tmp_path: Path, extractor: Counting) -> None:
    a, b = write_folder(tmp_path / "a", blobs(N)), write_folder(tmp_path / "b", blobs(N, seed=1))
    table = run(a, b).stdout
    lines = run(a, b, "--csv")
    rows = list(csv.DictReader(io.StringIO(lines.stdout)))
    assert "inception_score is not measured: " in lines.stderr
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        (line,) = (line for line in table.splitlines() if line.startswith(f"{row['figure']} "))
        assert f"{float(row['value']):.2f}"[:4] in line
        assert row["better"] in line
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    (copies,) = (row for row in rows if row["figure"] == "memorisation")
    assert copies["baseline_is"] == "without copying"
    assert "without copying" in table
    assert "inception_score is not measured: " in table
    assert "40 against 40 real" in table
    assert "of the pictures of b are as near to a picture of a as" in table
    assert "40 of 40 pictures of a were searched." in table


def test_prepared_datasets_with_the_same_classes_have_the_figures_of_classes(
    tmp_path: Path, extractor: Counting
) -> None:
    a = write_prepared(tmp_path / "a", *two_classes(60))
    b = write_prepared(tmp_path / "b", *two_classes(50, seed=1))
    figures = json.loads(run(a, b, "--json").stdout)["figures"]
    values = {figure["name"]: figure["value"] for figure in figures if figure["name"].startswith("class_")}
    assert values == {"class_agreement": 1, "class_training": 1, "class_agreement_of_real": 1}
    other = write_prepared(tmp_path / "c", blobs(50), np.arange(50) % 3)
    assert "test train has other classes (0, 1) than test train (0, 1, 2)" in run(a, other).stdout


def test_a_class_conditional_generator_has_the_figures_of_the_evaluate_stage(
    tmp_path: Path, extractor: Counting
) -> None:
    dataset = write_prepared(tmp_path / "data", *two_classes(N))
    found = json.loads(
        run(generator(tmp_path / "g", "cgan", 2, width=8), dataset, "--json", "--path-samples", 20).stdout
    )
    names = [figure["name"] for figure in found["figures"]]
    assert {"fid_class", "class_agreement", "class_training", "ppl_z", "memorisation"} <= {*names}
    chance = {figure["name"]: figure["baseline"] for figure in found["figures"]}
    assert chance["class_training"] == 0.5
    other = write_prepared(tmp_path / "other", blobs(N), np.arange(N) % 3)
    reason = json.loads(run(tmp_path / "g", other, "--json").stdout)["not_measured"]["class_agreement"]
    assert reason == "the generator has other classes (0, 1) than the data (0, 1, 2)"


@pytest.mark.parametrize("prepared", [True, False])
def test_a_generator_is_measured_against_its_truncation(tmp_path: Path, extractor: Counting, prepared: bool) -> None:
    write = write_prepared if prepared else write_folder
    made = generator(tmp_path / "g", "stylegan2", channel_base=128, channel_max=8, latent=8, style=8)
    data, plot = write(tmp_path / "data", blobs(N)), tmp_path / "curve.png"
    result = run(data, made, "--truncation", "1.0,0.5,0.7", "--plot", plot, "--json")
    assert result.exit_code == 0, result.output
    assert extractor.seen == 5 * N, "one pass over the data, and one for each truncation"
    figures = json.loads(result.stdout)["figures"]
    curve = [(f["name"], f["protocol"]["direction"]) for f in figures if f["protocol"]["direction"]]
    assert curve == [(name, f"truncation {t}") for t in ("0.5", "0.7", "1") for name in ("fid", "precision", "recall")]
    values = {(f["name"], f["protocol"]["direction"]): f["value"] for f in figures}
    assert values["fid", "truncation 1"] == pytest.approx(values["fid", ""], rel=1e-3), "psi of 1 does not truncate"
    assert values["fid", "truncation 0.5"] != pytest.approx(values["fid", ""], rel=1e-3)
    assert Image.open(plot).size > (300, 200)
    assert f"Written: {plot}" in result.stderr


def test_path_lengths_are_not_measured_in_bf16_which_cannot_represent_a_step(
    tmp_path: Path, extractor: Counting
) -> None:
    extractor.precision = "bf16"
    made, data = generator(tmp_path / "g"), write_prepared(tmp_path / "data", blobs(N))
    found = json.loads(run(data, made, "--precision", "bf16", "--unpublished", "--path-samples", 20, "--json").stdout)
    assert "less than bf16 can represent" in found["not_measured"]["ppl_z"]
    assert "ppl_z" not in {figure["name"] for figure in found["figures"]}


def test_copies_are_searched_among_the_training_pictures_beside_a_held_out_split(
    tmp_path: Path, extractor: Counting
) -> None:
    made, data = generator(tmp_path / "g"), write_prepared(tmp_path / "data", blobs(N + 5))
    described = json.loads((data / "dataset.json").read_text())
    write_prepared(data, blobs(N, seed=1), split="test")
    (data / "dataset.json").write_text(json.dumps(described | {"splits": {"train": N + 5, "test": N}}))
    told = run(data, made, "--split", "test").stdout
    assert f"{N} of {N + 5} training pictures were searched" in told
    assert "the nearest 5% of the held-out pictures" in told
    assert f"{N + 5} of {N + 5} pictures of test train were searched" in run(data, made).stdout


def test_a_folder_with_a_generator_in_it_is_that_generator_and_not_the_pictures_beside_it(
    tmp_path: Path, extractor: Counting
) -> None:
    made, data = generator(tmp_path / "train" / "generator"), write_prepared(tmp_path / "data", blobs(N))
    write_folder(tmp_path / "train" / "grids", blobs(N, seed=1))
    found = [json.loads(run(data, place, "--json", command=fid).stdout) for place in (made, tmp_path / "train")]
    assert found[0]["value"] == found[1]["value"]
    assert found[0]["generator_digest"] == found[1]["generator_digest"]


def test_a_folder_of_checkpoints_is_their_generator_and_not_the_grids_beside_them(
    tmp_path: Path, extractor: Counting
) -> None:
    made, data = generator(tmp_path / "g"), write_prepared(tmp_path / "data", blobs(N))
    weights = {f"averaged.{name}": tensor for name, tensor in load_file(made / WEIGHTS).items()}
    stopped = tmp_path / "stopped"
    written = save_checkpoint(stopped / "checkpoints", 20, weights, {"generator": read_json(made / DESCRIPTION)})
    write_folder(stopped / "grids", blobs(N, seed=1))
    found = [json.loads(run(data, place, "--json", command=fid).stdout) for place in (stopped, written)]
    assert found[0]["generator_digest"]
    assert found[0]["generator_digest"] == found[1]["generator_digest"]


def test_two_generators_are_compared_by_pictures_of_different_latents(tmp_path: Path, extractor: Counting) -> None:
    """A generator is as far from itself as two draws of it are, and contains none of its own copies."""
    made = generator(tmp_path / "g")
    found = json.loads(run(made, made, "--n", N, "--json").stdout)
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert figures["fid"]["value"] > 1e-6
    assert found["copying"]["fake_quantiles"]["0"] > 0
    again = json.loads(run(made, made, "--n", N, "--json", command=fid).stdout)
    assert (again["value"], again["protocol"]) == (figures["fid"]["value"], figures["fid"]["protocol"])


def test_figures_against_generated_pictures_of_two_seeds_are_not_comparable(
    tmp_path: Path, extractor: Counting
) -> None:
    made, data = generator(tmp_path / "g"), write_folder(tmp_path / "data", blobs(N))
    for against, same in ((made, False), (data, True)):
        protocols = [
            json.loads(run(made, against, "--n", N, "--seed", seed, "--json", command=fid).stdout)["protocol"]
            for seed in (0, 1)
        ]
        assert (protocols[0] == protocols[1]) is same


def test_two_truncations_have_two_protocols(tmp_path: Path, extractor: Counting) -> None:
    made, data = generator(tmp_path / "g"), write_folder(tmp_path / "data", blobs(N))
    figures = json.loads(run(data, made, "--truncation", "0.5,0.5000001,2.0", "--json").stdout)["figures"]
    directions = [f["protocol"]["direction"] for f in figures if f["name"] == "fid"]
    assert directions == ["", "truncation 0.5", "truncation 0.5000001", "truncation 2"]


def test_figures_are_not_lost_if_the_plot_cannot_be_written(tmp_path: Path, extractor: Counting) -> None:
    made, data = generator(tmp_path / "g"), write_folder(tmp_path / "data", blobs(N))
    (tmp_path / "file").touch()
    plot = tmp_path / "file" / "curve.png"
    result = CliRunner().invoke(evaluate, [str(data), str(made), "--truncation", "1", "--plot", str(plot), "--json"])
    assert result.exit_code == 1
    assert "fid" in {figure["name"] for figure in json.loads(result.stdout)["figures"]}


def test_truncation_needs_a_generator_and_numbers(tmp_path: Path, extractor: Counting) -> None:
    folder = write_folder(tmp_path / "a", blobs(N))
    with pytest.raises(SettingsError, match="truncation: only a generator can be measured"):
        run(folder, folder, "--truncation", "0.5")
    assert extractor.seen == 0
    for wrong in ("0.5,much", "0", "", "inf"):
        assert "must be numbers above 0, separated by commas" in run(folder, folder, "--truncation", wrong).stderr
    assert "--plot needs --truncation" in run(folder, folder, "--plot", "x.png").stderr
    assert "either --json or --csv" in run(folder, folder, "--json", "--csv").stderr
    assert "-1 is not in the range" in run(folder, folder, "--seed", "-1").stderr


def test_a_broken_picture_is_left_out_listed_and_counted_in_every_protocol(tmp_path: Path, extractor: Counting) -> None:
    a, b = write_folder(tmp_path / "a", blobs(30)), write_folder(tmp_path / "b", blobs(30, seed=1))
    (b / "0" / "002.png").write_bytes(b"not a picture")
    result = run(a, b, "--json")
    assert "b: 0/002.png cannot be read and is left out: not-an-image" in result.stderr
    found = json.loads(result.stdout)
    assert {figure["protocol"]["unreadable"] for figure in found["figures"]} == {1}
    assert set(found["unreadable"][str(b)]) == {"0/002.png"}
    assert "1 unreadable left out" in run(a, b).stdout
