"""``preset: auto`` chooses from the data and the device, and says why."""

from typing import Any

import pytest
import torch

from gan_core import presets
from gan_core.config import build
from gan_core.data import DatasetInfo
from gan_core.families import FAMILIES, ImageShape, check_family, family_config
from gan_core.presets import batch_size, choose, micro_batches
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


def values(family: str, data: DatasetInfo, device: torch.device, **more: Any) -> dict[str, Any]:
    return {choice.name: choice.value for choice in choose(family, data, device, steps=1000, **more)}


def test_narrow_networks_for_a_cpu_learn_at_rates_of_their_own() -> None:
    wide, narrow = (values("r3gan", info(), device) for device in (GPU, CPU))
    assert wide["model.width"] > 10 * narrow["model.width"]
    assert wide["train.generator_lr"] < narrow["train.generator_lr"] == narrow["train.discriminator_lr"]


def test_what_is_given_stands_and_other_choices_follow_from_it() -> None:
    free = values("stylegan2", info(64), GPU)
    bound = values("stylegan2", info(64), GPU, given={"train.batch": free["train.batch"] // 4})
    assert bound["train.batch"] == free["train.batch"], "what would have been chosen is told"
    assert bound["model.r1"] == pytest.approx(4 * free["model.r1"], rel=0.01)
    assert bound["train.ema_half_life_kimg"] == free["train.ema_half_life_kimg"] / 4


@pytest.mark.parametrize(("gib", "workers", "count"), [(80, 1, 1), (24, 1, 2), (24, 4, 1), (12, 2, 2)])
def test_a_batch_is_cut_until_its_step_fits_into_the_memory_of_a_gpu(
    gib: int, workers: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3GAN at 32 pixels as the paper has it, in bf16: 23 GiB in one piece."""
    monkeypatch.setattr(presets, "device_memory", lambda device: gib * 2**30)
    monkeypatch.setattr(presets, "has_bf16", lambda device: True)
    assert values("r3gan", info(), GPU, workers=workers)["train.accumulate"] == count


def test_pictures_that_stay_on_the_gpu_leave_less_memory_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(pictures: int) -> int:
        needs = 2 * 2**30
        monkeypatch.setattr(presets, "memory", lambda *_, **__: needs)
        return micro_batches("dcgan", info(64, pictures), {}, 256, 4 * 2**30, bf16=True)[0]

    assert count(10_000) == 1
    assert count(150_000) > 1, "1.7 GiB of pictures"
    assert count(400_000) == 1, "4.6 GiB of pictures are read as they are needed"


def test_what_never_fits_is_cut_as_small_as_the_batch_divides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "memory", lambda *_, **__: 2**40)
    assert micro_batches("dcgan", info(64), {}, 48, 2**30, bf16=True) == (16, 2**40)


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
