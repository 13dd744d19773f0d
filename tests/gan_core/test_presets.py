"""``preset: auto`` chooses from the data and the device, and says why."""

import pytest
import torch

from gan_core.config import build
from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES, ImageShape, check_family, family_config
from gan_core.presets import batch_size, choose, nearest_resolution
from gan_core.training.config import TrainConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def info(size: int = 32, pictures: int = 50_000, classes: int = 10, channels: int = 3) -> DatasetInfo:
    return DatasetInfo(
        format=1,
        name="test",
        kind="labelled" if classes else "unlabelled",
        channels=channels,
        height=size,
        width=size,
        classes=tuple(map(str, range(classes))),
        splits={"train": pictures},
        mean=(0.5,) * channels,
        std=(0.2,) * channels,
        digest="d",
        code_version="test",
        rejects={},
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_every_choice_is_a_valid_setting_with_a_reason(family: str, size: int) -> None:
    if family in ("dcgan", "cgan") and size == 256:
        pytest.skip("they end at 128 pixels")
    data = info(size)
    choices = choose(family, data, GPU, steps=1000)
    assert all(choice.reason for choice in choices)
    values = {
        section: {c.name.partition(".")[2]: c.value for c in choices if c.name.startswith(f"{section}.")}
        for section in ("model", "train")
    }
    check_family(family, family_config(family, values["model"]), ImageShape.of(data))
    build(TrainConfig, values["train"]).check_workers(1)


def test_the_batch_follows_device_resolution_and_number_of_pictures() -> None:
    shape = {size: ImageShape.of(info(size)) for size in (32, 256)}
    assert batch_size(shape[32], 50_000, GPU) > batch_size(shape[256], 50_000, GPU)
    assert batch_size(shape[32], 50_000, GPU) > batch_size(shape[32], 50_000, CPU)
    assert batch_size(shape[32], 100, GPU) == 8


def test_few_pictures_are_augmented_and_many_are_not() -> None:
    chosen = {
        n: {c.name: c.value for c in choose("stylegan2", info(pictures=n), CPU, steps=1000)} for n in (2_000, 200_000)
    }
    assert chosen[2_000]["train.augment"] == {"kind": "ada"}
    assert "train.augment" not in chosen[200_000]


def test_a_family_with_a_batch_of_its_own_and_without_augmentation_keeps_to_that() -> None:
    chosen = {c.name: c.value for c in choose("stargan", info(pictures=1_000), GPU, steps=1000)}
    assert chosen["train.batch"] == 16
    assert "train.augment" not in chosen


def test_the_nearest_resolution_goes_by_octaves() -> None:
    assert nearest_resolution(ImageShape(channels=1, height=28, width=28), (32, 64, 128)) == 32
    assert nearest_resolution(ImageShape(channels=1, height=96, width=64), (32, 64, 128)) == 64
    assert nearest_resolution(ImageShape(channels=1, height=96, width=64), ()) == 0
