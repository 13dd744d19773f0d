"""A full disk ends a command with one line that names the folder, and leaves no partial files."""

import json
from pathlib import Path

import numpy as np
import pytest

from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import save_generator
from tests.datasets import blobs, write_prepared
from tests.pipelines.commands.test_sample import export as export_noise
from tests.pipelines.data.samples import picture
from tests.pipelines.translators import export as export_translator
from tests.small_disk import Ended, gantry, run_on_small_disk


def refused(ended: Ended, place: Path, *, left: tuple[str, ...] = ()) -> None:
    """Assert that a command ended with one line that names ``place`` as full, and left only these files."""
    assert "Traceback" not in ended.output
    last = ended.output.strip().splitlines()[-1]
    assert last.startswith(f"error: {place}: no space left on device ("), ended.output
    assert last.endswith("Free some space there, or choose another folder.")
    assert ended.status == 1
    assert ended.left == left


def lock(dataset: str) -> tuple[str, ...]:
    """The lock of commands that add raw data, and its folders."""
    return "var", "var/data", f"var/data/{dataset}.lock"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve pictures of noise, 64 by 64."""
    (tmp_path / "in").mkdir()
    for index in range(12):
        picture(index, 64, 64).save(tmp_path / "in" / f"p{index:02d}.png")
    return tmp_path / "in"


def test_written_samples_are_complete(tmp_path: Path) -> None:
    model = export_noise(tmp_path / "model", "dcgan", 0)
    place = tmp_path / "disk"
    ended = run_on_small_disk(gantry("sample", model, "--n", 9, "--out", place / "many"), place, size="16k")
    whole = ("many", *(f"many/seed0000-{index:06d}.png" for index in range(4)))
    refused(ended, place / "many" / "seed0000-000004.png", left=whole)


def test_written_translations_are_complete(tmp_path: Path, pictures: Path) -> None:
    model = export_translator(tmp_path / "model", "cyclegan")
    place = tmp_path / "disk"
    ended = run_on_small_disk(gantry("translate", model, pictures, place / "out"), place, size="40k")
    told = ended.output.strip().splitlines()[-1]
    assert told.startswith(f"error: {place}/out/p0")
    assert 1 < len(ended.left) < 13
    assert told.split(":")[1].strip().removeprefix(f"{place}/") not in ended.left


def test_data_that_does_not_fit_is_an_error_with_the_missing_space_and_the_folder(
    tmp_path: Path, pictures: Path
) -> None:
    place = tmp_path / "disk"
    ended = run_on_small_disk(gantry("data", "add", "mine", pictures), place, size="20k", cwd=place)
    refused(ended, place / "data" / "raw" / "mine", left=("data", "data/raw", *lock("mine")))
    assert "KiB more are needed" in ended.output


def test_a_public_dataset_that_does_not_fit_is_an_error_with_the_folder(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    ended = run_on_small_disk(gantry("data", "fetch", "digits"), place, size="20k", cwd=place)
    refused(
        ended, place / "data" / "raw" / "digits" / "train-images-idx3-ubyte", left=("data", "data/raw", *lock("digits"))
    )


def test_a_projection_writes_both_files_or_neither(tmp_path: Path, pictures: Path) -> None:
    shape = ImageShape(channels=3, height=16, width=16)
    config = {"latent": 8, "style": 8, "mapping_layers": 1, "channel_base": 64, "channel_max": 8}
    family = build_family("stylegan2", family_config("stylegan2", config), shape)
    save_generator(tmp_path / "model", family=family)
    place = tmp_path / "disk"
    out = place / "found.png"
    command = gantry("project", tmp_path / "model", pictures / "p00.png", "--steps", 2, "--out", out)
    refused(run_on_small_disk(command, place, size="4k"), out, left=())  # room for the styles alone
    full = 'head -c 4096 /dev/zero > "$DISK/other"'
    refused(run_on_small_disk(command, place, size="4k", before=full), place / "found.safetensors", left=("other",))


def test_an_enlarged_dataset_is_complete_or_absent(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "prepared", blobs(12), np.arange(12) % 2)
    test = write_prepared(tmp_path / "test", blobs(6, seed=1), np.arange(6) % 2, split="test")
    (test / "test-00000-of-00001.parquet").rename(data / "test-00000-of-00001.parquet")
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**described, "splits": {"train": 12, "test": 6}}))
    shape = ImageShape(channels=1, height=16, width=16, classes=2)
    family = build_family("cgan", family_config("cgan", {"width": 4, "latent": 8}), shape)
    save_generator(tmp_path / "model", family=family, extra={"classes": ["0", "1"]})
    place = tmp_path / "disk"
    command = gantry("augment", data, "--model", tmp_path / "model", "--per-class", 200, "--steps", 2, "--runs", 1)
    ended = run_on_small_disk([*command, "--out", place / "more"], place, size="32k", cwd=tmp_path)
    refused(ended, place / "more/train-00001-of-00002.parquet", left=())
