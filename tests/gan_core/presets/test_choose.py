"""``preset: auto`` chooses settings from the data and the device, each with a reason."""

from typing import Any

import pytest
import torch

from gan_core.config import build
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, ImageShape, check_family, family_config
from gan_core.presets import choose as presets
from gan_core.presets.choose import LengthChoices, choose, choose_batch, fit_micro_batches
from gan_core.presets.recipes import RECIPES
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
    data = info(size)
    choices = choose(family, data, GPU, steps=1000)
    assert all(choice.reason for choice in choices)
    values = {
        section: {c.name.partition(".")[2]: c.value for c in choices if c.name.startswith(f"{section}.")}
        for section in ("model", "train")
    }
    check_family(family, family_config(family, values["model"]), ImageShape.of(data))
    build(TrainConfig, values["train"]).check_workers(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_depends_on_the_steps_can_be_chosen_when_they_are_known(family: str) -> None:
    now, later = choose(family, info(), GPU, steps=None), choose(family, info(), GPU, steps=700)
    values = {choice.name: choice.value for choice in now}
    train = {name: values.get(f"train.{name}", 1) for name in ("batch", "discriminator_steps")}
    added = LengthChoices(family=family, **train)
    assert {c.name: c for c in [*now, *added.at(700)]} == {c.name: c for c in later}
    assert added.names == {"r3gan": ["train.burn_in_kimg"], "stargan2": ["model.diversity_steps"]}.get(family, [])
    assert LengthChoices(family=family, **train, given=frozenset(added.names)).at(700) == [], (
        "the user's own come first"
    )


PAPERS = [
    # family, pixels, setting, value: as the issue of each paper's authors has it
    ("dcgan", 64, "model.width", 128),  # Radford et al. 2015, figure 1
    ("dcgan", 64, "model.slope", 0.2),  # section 4
    ("dcgan", 64, "train.generator_lr", 2e-4),
    ("dcgan", 64, "train.beta1", 0.5),
    ("biggan", 32, "model.loss", "hinge"),  # Brock et al. 2019, section 3
    ("biggan", 32, "train.discriminator_steps", 4),  # appendix C, CIFAR-10
    ("biggan", 32, "train.generator_lr", 2e-4),
    ("biggan", 32, "model.orthogonal", 0.0),
    ("biggan", 128, "train.generator_lr", 5e-5),  # appendix C, ImageNet
    ("biggan", 128, "train.discriminator_lr", 2e-4),
    ("biggan", 128, "train.discriminator_steps", 2),
    ("biggan", 128, "model.orthogonal", 1e-4),  # section 3.1
    ("biggan", 128, "train.beta1", 0.0),
    ("stylegan2", 64, "model.mixing", 0.9),  # Karras et al. 2019, section 3.1
    ("stylegan2", 64, "model.r1_every", 16),  # Karras et al. 2020, section 3.1
    ("stylegan2", 64, "model.path_every", 4),  # appendix B
    ("stylegan2", 64, "model.path_length", 2.0),
    ("stylegan2", 64, "train.generator_lr", 2.5e-3),  # Karras et al. 2020, ADA, appendix C
    ("stylegan2", 64, "train.beta1", 0.0),
    ("stylegan2", 64, "train.beta2", 0.99),
    ("stylegan2", 64, "train.augment.target", 0.6),  # ADA, section 3
    ("stylegan2", 64, "train.augment.speed_kimg", 500.0),
    ("stylegan2", 32, "model.path_length", 0.0),  # ADA, appendix C, CIFAR-10
    ("stylegan2", 32, "model.mixing", 0.0),
    ("r3gan", 32, "model.loss", "relativistic"),  # Huang et al. 2024, section 3
    ("r3gan", 32, "train.generator_lr", 2e-4),  # its tables of hyperparameters
    ("r3gan", 32, "train.final_lr_share", 0.25),
    ("r3gan", 32, "train.beta2", 0.9),
    ("r3gan", 32, "train.final_beta2", 0.99),
    ("r3gan", 32, "train.augment.strength", 0.55),
    ("r3gan", 64, "train.augment.strength", 0.3),
    ("stylegan2", 32, "train.ema_half_life_kimg", 500.0),
    ("r3gan", 32, "train.ema_half_life_kimg", 5000.0),
    ("r3gan", 64, "train.ema_half_life_kimg", 500.0),
    ("pix2pix", 256, "model.l1", 100.0),  # Isola et al. 2017, section 3.3
    ("pix2pix", 256, "train.mirror", True),  # appendix 6.2
    ("pix2pix", 256, "train.jitter", 30 / 256),
    ("cyclegan", 256, "model.cycle", 10.0),  # Zhu et al. 2017, section 4
    ("cyclegan", 256, "model.identity", 0.5),  # section 5.2
    ("cyclegan", 256, "model.pool", 50),  # section 4
    ("cyclegan", 256, "train.decay_from", 0.5),
    ("stargan", 128, "model.reconstruction", 10.0),  # Choi et al. 2018, section 5
    ("stargan", 128, "model.gradient_penalty", 10.0),
    ("stargan", 128, "model.classification", 1.0),
    ("stargan", 128, "train.discriminator_steps", 5),
    ("stargan", 128, "train.decay_from", 0.5),
    ("stargan2", 256, "train.beta2", 0.99),  # Choi et al. 2020, appendix
]


@pytest.mark.parametrize(("family", "size", "name", "value"), PAPERS, ids=[" ".join(map(str, row)) for row in PAPERS])
def test_on_a_gpu_auto_trains_with_the_papers_settings(family: str, size: int, name: str, value: Any) -> None:
    choices = choose(family, info(size), GPU, steps=1000)
    chosen = {
        section: {c.name.partition(".")[2]: c.value for c in choices if c.name.startswith(f"{section}.")}
        for section in ("model", "train")
    }
    found: Any = {"model": family_config(family, chosen["model"]), "train": build(TrainConfig, chosen["train"])}
    section, *path = name.split(".")
    found = found[section]
    for part in path:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize("family", ["stylegan2", "r3gan"])
def test_an_optionally_class_conditional_family_is_with_classes(family: str) -> None:
    assert values(family, info(), GPU)["model.conditional"] is True
    assert "model.conditional" not in values(family, info(classes=0), GPU)


def test_the_objective_of_cut_sets_its_identity_weight_and_no_pool() -> None:
    chosen = values("cyclegan", info(), GPU, given={"model.objective": "contrastive"})
    assert (chosen["model.identity"], chosen["model.pool"]) == (1.0, 0)
    assert "model.identity" not in values("cyclegan", info(), GPU)


def test_the_batch_follows_device_resolution_and_number_of_pictures() -> None:
    shape = {size: ImageShape.of(info(size)) for size in (32, 256)}
    assert choose_batch(shape[32], 50_000, GPU) > choose_batch(shape[256], 50_000, GPU)
    assert choose_batch(shape[32], 50_000, GPU) > choose_batch(shape[32], 50_000, CPU)
    assert choose_batch(shape[32], 100, GPU) == 8


def values(family: str, data: DatasetInfo, device: torch.device, **more: Any) -> dict[str, Any]:
    return {choice.name: choice.value for choice in choose(family, data, device, steps=1000, **more)}


def test_networks_for_a_cpu_have_their_own_learning_rates() -> None:
    wide, narrow = (values("r3gan", info(), device) for device in (GPU, CPU))
    assert wide["model.width"] > 10 * narrow["model.width"]
    assert wide["train.generator_lr"] < narrow["train.generator_lr"] == narrow["train.discriminator_lr"]


def test_given_settings_override_choices_and_other_choices_follow_them() -> None:
    free = values("stylegan2", info(64), GPU)
    bound = values("stylegan2", info(64), GPU, given={"train.batch": free["train.batch"] // 4})
    assert bound["train.batch"] == free["train.batch"], "what would have been chosen is told"
    assert bound["model.r1"] == pytest.approx(4 * free["model.r1"], rel=0.01)
    assert bound["train.ema_half_life_kimg"] == free["train.ema_half_life_kimg"] / 4


@pytest.mark.parametrize(("gib", "workers", "count"), [(80, 1, 1), (24, 1, 2), (24, 4, 1), (12, 2, 2)])
def test_a_batch_is_split_until_a_step_fits_into_the_memory_of_a_gpu(
    gib: int, workers: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3GAN at 32 pixels as the paper has it, in bf16: 23 GiB in one piece."""
    monkeypatch.setattr(presets, "device_memory", lambda device: gib * 2**30)
    monkeypatch.setattr(presets, "has_bf16", lambda device: True)
    assert values("r3gan", info(), GPU, workers=workers)["train.accumulate"] == count


def test_a_compiled_step_is_split_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3GAN at 32 pixels, whose two penalties need memory in addition to the CUDA graphs."""
    monkeypatch.setattr(presets, "device_memory", lambda device: 40 * 2**30)
    monkeypatch.setattr(presets, "has_bf16", lambda device: True)
    counts = [values("r3gan", info(), GPU, given={"train.compile": on})["train.accumulate"] for on in (False, True)]
    assert counts == [1, 2]


def test_pictures_kept_on_the_gpu_leave_less_memory_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(pictures: int) -> int:
        needs = 2 * 2**30
        monkeypatch.setattr(presets, "peak_memory", lambda *_, **__: needs)
        return fit_micro_batches("dcgan", info(64, pictures), {}, 256, 4 * 2**30, bf16=True)[0]

    assert count(10_000) == 1
    assert count(150_000) > 1, "1.7 GiB of pictures"
    assert count(400_000) == 1, "4.6 GiB of pictures are read as they are needed"


def test_a_step_that_never_fits_gets_the_smallest_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "peak_memory", lambda *_, **__: 2**40)
    assert fit_micro_batches("dcgan", info(64), {}, 48, 2**30, bf16=True) == (16, 2**40)


def test_few_pictures_are_augmented_and_many_are_not() -> None:
    chosen = {
        n: {c.name: c.value for c in choose("stylegan2", info(pictures=n), CPU, steps=1000)} for n in (2_000, 200_000)
    }
    assert chosen[2_000]["train.augment"] == {"kind": "ada"}
    assert "train.augment" not in chosen[200_000]


def test_a_recipe_with_a_batch_and_without_augmentation_is_kept() -> None:
    chosen = {c.name: c.value for c in choose("stargan", info(pictures=1_000), GPU, steps=1000)}
    assert chosen["train.batch"] == 16
    assert "train.augment" not in chosen


@pytest.mark.parametrize("family", ["cyclegan", "stargan2"])
@pytest.mark.parametrize("workers", [3, 32])
def test_a_recipe_s_batch_is_rounded_up_so_that_each_worker_gets_as_many_pictures(
    family: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "device_memory", lambda device: 80 * 2**30)
    monkeypatch.setattr(presets, "has_bf16", lambda device: True)
    found = {choice.name: choice for choice in choose(family, info(64), GPU, steps=1000, workers=workers)}
    theirs, batch = RECIPES[family].train["batch"], found["train.batch"]
    assert theirs <= batch.value < theirs + workers
    assert batch.reason == f"the recipe of {family}, rounded up to a multiple of {workers} workers"
    build(TrainConfig, {"batch": batch.value, "accumulate": found["train.accumulate"].value}).check_workers(workers)


def test_a_given_batch_smaller_than_the_number_of_workers_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "device_memory", lambda device: 80 * 2**30)
    monkeypatch.setattr(presets, "has_bf16", lambda device: True)
    chosen = values("stargan2", info(64), GPU, workers=16, given={"train.batch": 8})
    with pytest.raises(SettingsError, match=r"train\.batch: 8 cannot be split evenly over 16 workers"):
        build(TrainConfig, {"batch": 8, "accumulate": chosen["train.accumulate"]}).check_workers(16)
