"""``gantry augment`` writes an enlarged dataset that marks generated pictures, and reports what a classifier gains."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, GantryError, SettingsError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import load_generator, save_generator
from pipelines.commands.augment import augment
from pipelines.data.enlarge import enlarge
from tests.datasets import blobs, write_prepared


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve training pictures of two classes and six of a test split."""
    folder = write_prepared(tmp_path / "prepared", blobs(12), np.arange(12) % 2)
    test = write_prepared(tmp_path / "test", blobs(6, seed=1), np.arange(6) % 2, split="test")
    (test / "test-00000-of-00001.parquet").rename(folder / "test-00000-of-00001.parquet")
    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**described, "splits": {"train": 12, "test": 6}}))
    return folder


def generator(
    directory: Path,
    family: str = "cgan",
    size: int = 16,
    classes: tuple[str, ...] = ("0", "1"),
    dataset: str = "",
) -> Path:
    shape = ImageShape(channels=1, height=size, width=size, classes=len(classes))
    small = {"width": 4, "blocks": 1} if family == "stargan" else {"width": 4, "latent": 8}
    built = build_family(family, family_config(family, small), shape)
    extra = {"classes": list(classes), "dataset": dataset}
    save_generator(directory, family=built, extra=extra)
    return directory


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(augment, [str(argument) for argument in arguments])
    if isinstance(result.exception, GantryError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_the_enlarged_dataset_has_the_real_pictures_and_the_origin_of_generated_ones(
    data: Path, tmp_path: Path
) -> None:
    model, out = generator(tmp_path / "generator"), tmp_path / "out"
    said = run(data, "--model", model, "--per-class", 5, "--seed", 3, "--out", out, "--steps", 2, "--runs", 2).output
    assert "22 training pictures, 5 of each class generated" in said
    whole, real = PreparedDataset(out, tmp_path / "cache"), PreparedDataset(data, tmp_path / "cache")
    assert whole.info.splits == {"test": 6, "train": 22}
    np.testing.assert_array_equal(whole.pixels()[:12], real.pixels())
    np.testing.assert_array_equal(whole.pixels("test"), real.pixels("test"))
    assert whole.labels().tolist() == [*real.labels().tolist(), *[0] * 5, *[1] * 5]
    loaded = load_generator(model)
    rows = [row for shard in whole.shards("train") for row in pq.read_table(shard).to_pylist()]
    assert [row["generator"] for row in rows] == [None] * 12 + [loaded.digest] * 10
    for row, pixels in zip(rows[12:], whole.pixels()[12:], strict=True):
        again = loaded.sample(1, row["seed"], row["label"], first=row["index"])
        np.testing.assert_array_equal(again[0].numpy(), pixels)


def test_the_report_compares_equal_training_on_the_real_test_split(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(data, "--model", generator(tmp_path / "g"), "--per-class", 2, "--out", out, "--steps", 3, "--runs", 2)
    report = json.loads((out / "report.json").read_text())
    assert len(report["real"]) == len(report["enlarged"]) == 2
    assert report["test_pictures"] == 6
    assert report["gain"] == pytest.approx(np.mean(report["enlarged"]) - np.mean(report["real"]))
    assert f"{100 * report['gain']:+.2f} percentage points (standard error" in said.output


def test_a_generator_trained_on_other_data_gives_a_warning(data: Path, tmp_path: Path) -> None:
    own, arguments = PreparedDataset(data).info.digest, ("--per-class", 1, "--steps", 1, "--runs", 1)
    for trained_on, careful in ((own, False), ("0123456789abcdef", True)):
        model = generator(tmp_path / trained_on, dataset=trained_on)
        said = run(data, "--model", model, *arguments, "--out", tmp_path / "out")
        assert ("the generator was trained on other data (0123456789ab)" in said.output) == careful
        assert json.loads((tmp_path / "out" / "report.json").read_text())["learnt_from"] == trained_on


def test_a_single_run_has_no_standard_error_and_the_report_is_json(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(data, "--model", generator(tmp_path / "g"), "--per-class", 1, "--out", out, "--steps", 1, "--runs", 1)

    def no_such_number(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    report = json.loads((out / "report.json").read_text(), parse_constant=no_such_number)
    assert report["noise"] is None
    assert "nan" not in said.output
    assert "standard error" not in said.output
    assert "from a single run, so the noise is unknown" in said.output


def test_what_an_earlier_run_wrote_is_replaced(data: Path, tmp_path: Path) -> None:
    model, out = generator(tmp_path / "generator"), tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    for count in (1, 2):
        run(data, "--model", model, "--per-class", count, "--out", out, "--steps", 1, "--runs", 1)
        assert PreparedDataset(out).info.splits["train"] == 12 + 2 * count


def test_a_run_that_fails_does_not_change_the_earlier_result(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it fails during the training of the classifiers, after all pictures were generated."""
    model, out = generator(tmp_path / "generator"), tmp_path / "out"
    run(data, "--model", model, "--per-class", 1, "--out", out, "--steps", 1, "--runs", 1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stopped(*_: object, **__: object) -> float:
        raise DataError("stopped")

    monkeypatch.setattr("gan_core.metrics.classifier.accuracy", stopped)
    with pytest.raises(DataError, match="stopped"):
        run(data, "--model", model, "--per-class", 2, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("prepared", "would overwrite .* or mix it"),
        ("prepared/../prepared", "would overwrite .* or mix it"),
        (".", "would overwrite .* or mix it"),
        ("prepared/more", "would overwrite .* or mix it"),
        ("file", "there is a file of that name"),
        ("file/out", "file is not a folder"),
        ("photos", r"not empty and not the output of gantry augment \(dataset\.json is missing\)"),
        ("other", r"not empty and not the output of gantry augment \(report\.json is missing\)"),
        ("link", "it is a link"),
    ],
)
def test_an_output_that_would_overwrite_something_is_rejected_before_any_work(
    data: Path, tmp_path: Path, place: str, said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/mine.png").write_text("mine")
    write_prepared(tmp_path / "other", blobs(4), np.arange(4) % 2)
    (tmp_path / "link").symlink_to("photos")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match=said):
        run(data, "--model", tmp_path / "not looked for", "--per-class", 2, "--out", tmp_path / place)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_the_dvc_version_changes_only_with_the_arguments(data: Path, tmp_path: Path) -> None:
    model, digests = generator(tmp_path / "generator"), []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(
            data,
            "--model",
            model,
            "--per-class",
            2,
            "--seed",
            seed,
            "--out",
            tmp_path / name,
            "--steps",
            1,
            "--runs",
            1,
        )
        digests.append(PreparedDataset(tmp_path / name).info.digest)
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_depends_on_the_generated_pixels(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may round them otherwise, and decoded pictures are cached by digest."""
    made, digests = load_generator(generator(tmp_path / "generator")), set[str]()
    for level in (1, 2):
        monkeypatch.setattr(made, "sample", lambda n, *_, level=level, **__: torch.full((n, 1, 16, 16), level).byte())
        info = enlarge(PreparedDataset(data), made, tmp_path / str(level), per_class=2, seed=0)
        pixels = PreparedDataset(tmp_path / str(level), tmp_path / "cache").pixels()
        assert (pixels[-4:] == level).all()
        digests.add(info.digest)
    assert len(digests) == 2


def test_an_enlarged_dataset_is_not_enlarged_again(data: Path, tmp_path: Path) -> None:
    model, options = generator(tmp_path / "generator"), ("--per-class", 1, "--steps", 1, "--runs", 1)
    run(data, "--model", model, *options, "--out", tmp_path / "out")
    with pytest.raises(DataError, match="out was enlarged already: some of its pictures are generated"):
        run(tmp_path / "out", "--model", model, *options, "--out", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("family", "size", "classes", "said"),
    [
        ("cgan", 32, ("0", "1"), r"makes pictures of 32x32x1 \(height, width, channels\), but test holds 16x16x1"),
        ("cgan", 16, ("0", "9"), "has the classes 0, 9, but test has 0, 1"),
        ("dcgan", 16, ("0", "1"), "This dcgan generator is not class-conditional"),
        ("stargan", 16, ("0", "1"), "A stargan generator translates pictures"),
    ],
)
def test_an_unsuitable_generator_is_rejected_and_nothing_is_written(
    data: Path, tmp_path: Path, family: str, size: int, classes: tuple[str, ...], said: str
) -> None:
    model = generator(tmp_path / "generator", family, size, classes)
    with pytest.raises(DataError, match=said):
        run(data, "--model", model, "--per-class", 2, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_a_test_split_is_an_error(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "prepared", blobs(4), np.arange(4) % 2)
    with pytest.raises(DataError, match=r"no test split to compare classifiers on\. Set ingest\.test_share"):
        run(data, "--model", generator(tmp_path / "g"), "--per-class", 2)
