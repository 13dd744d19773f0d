"""The contract of every family that translates pictures."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from gan_core.augment import AugmentConfig
from gan_core.checkpoint import list_checkpoints, load_checkpoint
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, check_family, families_that_can, family_config
from gan_core.families.base import ImageShape
from gan_core.families.translation import TranslationFamily, grid_rows
from gan_core.inference.generator import load_generator
from gan_core.presets.recipes import RECIPES
from gan_core.training.feed import preview_batch
from gan_core.training.health import diversity
from gan_core.training.observer import Observer
from tests.datasets import blobs, write_prepared
from tests.gan_core.families.devices import DEVICES
from tests.gan_core.families.translations import (
    SMALL,
    VARIANTS,
    small,
    some_batch,
    some_pictures,
    trainer_of,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A prepared dataset for each variant."""
    home = tmp_path_factory.mktemp("data")
    return {variant: write_data(variant, home / variant) for variant in VARIANTS}


def a_target(family: TranslationFamily) -> int | None:
    return family.directions[0][1]


def test_every_family_is_tested() -> None:
    assert sorted(SMALL) == families_that_can(TranslationFamily)


# -- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_update_gives_only_its_own_side_a_gradient(variant: str) -> None:
    family = small(variant)
    batch = some_batch(family)
    sides = {"discriminator": family.discriminators, "generator": family.generators}
    for phase in family.phases():
        own = [p for name in sides[phase.side] for p in family.networks[name].parameters()]
        other = [p for network in family.networks.values() for p in network.parameters()]
        other = [p for p in other if all(p is not mine for mine in own)]
        for parameter in [*own, *other]:
            parameter.grad = None
            parameter.requires_grad_(phase.side == "discriminator" or any(parameter is mine for mine in own))
        phase.loss(batch, 0).total.backward()
        assert all(parameter.grad is None for parameter in other), phase.name
        for name in sides[phase.side]:
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in family.networks[name].parameters()), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_are_the_same_without_caching(variant: str) -> None:
    totals = []
    for keep in (True, False):
        family = small(variant)
        batch = some_batch(family, keep=keep)
        totals.append([phase.loss(batch, 0).total.item() for phase in family.phases()])
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_generator_is_called_once_for_the_pictures_that_both_updates_need(variant: str) -> None:
    family = small(variant)
    calls = []
    for name in family.generators:
        if name not in ("reader", "mapping", "style"):
            family.networks[name].register_forward_hook(lambda net, given, made: calls.append(len(given[0])))
    batch = some_batch(family, n=4)
    for phase in family.phases():
        phase.loss(batch, 0)
    # CycleGAN: translation and identity in one pass each, then the way back, or another reals. StarGAN: there, and back;
    # its second version in three styles there, and in two back.
    passes = {
        "pix2pix": [4],
        "colourisation": [4],
        "cyclegan": [8, 8, 4, 4],
        "contrastive": [8, 8, 8, 8],
        "stargan2": [4, 8],
    }
    assert calls == passes.get(variant, [4, 4])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_collapse_of_any_direction_or_domain_is_detected(variant: str) -> None:
    family = small(variant)
    sides = family.diversity_pairs(some_batch(family, n=8))
    assert diversity(sides) > 0
    assert len(sides) == (2 if variant in ("cyclegan", "contrastive") else 1)
    for side in sides:
        of = torch.zeros(8, dtype=torch.int64) if side.fake_labels is None else side.fake_labels
        alike = side.reals[of]  # one picture a domain
        dead = dataclasses.replace(side, fakes=alike)
        assert diversity([dead, *(other for other in sides if other is not side)]) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_gives_about_the_losses_of_fp32(variant: str) -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        family = small(variant).to(torch.device("cpu"))
        batch = some_batch(family)
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            losses = [phase.loss(batch, 0).total for phase in family.phases()]
        assert all(loss.dtype is torch.float32 for loss in losses)
        found.append([loss.item() for loss in losses])
    assert found[0] == pytest.approx(found[1], rel=0.05, abs=0.05)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("pix2pix", {"depth": 3}),
        ("cyclegan", {"identity": 0.0}),
        ("contrastive", {"identity": 0.0}),
        ("stargan", {}),
        ("stargan2", {}),
    ],
)
def test_compiled_networks_have_the_gradients_of_plain_ones(variant: str, settings: dict[str, float]) -> None:
    """With a compiler that only traces, so that gradients are those of the traced graph."""
    gradients: list[list[Tensor]] = []
    for compiled in (False, True):
        torch.compiler.reset()
        family = small(variant, **settings)
        if compiled:
            family.compile(backend="aot_eager", dynamic=False)
        batch = some_batch(family, n=4)
        for phase in family.phases():
            phase.loss(batch, 0).total.backward()
        gradients.append(
            [p.grad.clone() for n in family.networks.values() for p in n.parameters() if p.grad is not None]
        )
    for plain, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, traced, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to wait for")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_never_waits_for_the_gpu(variant: str, compiled: bool, data: dict[str, Path], tmp_path: Path) -> None:
    settings = {"steps": 20, "log_every": 50, "checkpoint_every": 50, "jitter": 0.2, "compile": compiled}
    trainer = trainer_of(variant, data[variant], tmp_path, device="cuda", **settings)
    trainer.run(6)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.run(18)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- use -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (32, 48), (21, 19), (5, 40), (1, 1)])
def test_pictures_of_any_size_keep_it(variant: str, size: tuple[int, int]) -> None:
    family = small(variant)
    with torch.no_grad():
        made = family.translate(some_pictures(2, family.source_channels, *size), a_target(family))
    assert made.shape == (2, 3, *size)
    assert made.abs().max() <= 1
    assert made.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_translation_is_the_same_whatever_the_batch(variant: str) -> None:
    family = small(variant)
    images, target = some_pictures(7, family.source_channels), a_target(family)
    with torch.no_grad():
        whole = family.translate(images, target, seed=3)
        part = family.translate(images[4:6], target, seed=3, first=4)
        other = family.translate(images, target, seed=4)
    torch.testing.assert_close(part, whole[4:6], rtol=0, atol=1e-5)
    # Only these draw random numbers: dropout, and styles.
    assert torch.equal(other, whole) == (VARIANTS[variant][0] not in ("pix2pix", "stargan2"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_translation_depends_on_the_picture_and_on_the_target(variant: str) -> None:
    family = small(variant)
    one, two = some_pictures(2, family.source_channels).split(1)
    with torch.no_grad():
        made = [family.translate(one, target) for target in family.target_domains or (None,)]
        assert not torch.equal(family.translate(two, a_target(family)), family.translate(one, a_target(family)))
    for index, translated in enumerate(made):
        assert not any(torch.equal(translated, another) for another in made[:index])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_target_that_does_not_exist_and_wrong_channels_are_refused(variant: str) -> None:
    family = small(variant)
    images = some_pictures(1, family.source_channels)
    with pytest.raises(SettingsError, match="target: .*(no domain 9|takes no target)"):
        family.translate(images, 9)
    with pytest.raises(SettingsError, match=f"pictures of {family.source_channels} channels, not 2"):
        family.translate(images[:, :1].expand(-1, 2, -1, -1), a_target(family))
    if variant in ("stargan", "attributes", "stargan2"):
        with pytest.raises(SettingsError, match=r"needs a target domain\. Choose one of 0 to 2"):
            family.translate(images)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_that_are_not_multiples_can_be_trained(variant: str) -> None:
    family = small(variant, 22)
    batch = some_batch(family, n=2)
    assert all(phase.loss(batch, 0).total.isfinite() for phase in family.phases())
    assert family.fakes(batch).shape == batch.real.shape


@pytest.mark.parametrize(
    ("variant", "columns"),
    [
        ("pix2pix", 3),
        ("colourisation", 3),
        ("cyclegan", 4),
        ("contrastive", 4),
        ("stargan", 4),
        ("attributes", 4),
        ("stargan2", 4),
    ],
)
def test_the_grid_shows_sources_and_translations_in_rows(
    variant: str, columns: int, data: dict[str, Path], tmp_path: Path
) -> None:
    family = small(variant)
    reals = preview_batch(PreparedDataset(data[variant], tmp_path), "train", torch.device("cpu"))
    with torch.no_grad():
        pictures, length = family.preview(reals, family.networks)
    assert length == columns
    assert pictures.shape == (8 * columns, 3, 16, 16)
    source = reals.real if reals.condition is None else reals.condition
    if variant != "colourisation":  # there, the grey of L is another number than L
        torch.testing.assert_close(pictures[::columns], source.expand(-1, 3, -1, -1))
    if "paired" in family.kinds:
        torch.testing.assert_close(pictures[2::columns], reals.real)


def test_pictures_with_different_channels_share_a_grid() -> None:
    grey, colour, clear = (torch.full((2, channels, 4, 4), channels / 8) for channels in (1, 3, 4))
    pictures, columns = grid_rows(grey, colour, clear)
    assert (pictures.shape, columns) == ((6, 4, 4, 4), 3)
    assert pictures[0, :3].eq(1 / 8).all()
    assert pictures[:2, 3].eq(1).all()


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_data_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    unlabelled = PreparedDataset(write_prepared(tmp_path, blobs(8)))
    with pytest.raises(SettingsError, match=rf"{name} learns from .* data, but test is unlabelled"):
        FAMILIES[name].check_data(unlabelled.info, family_config(name, {}))


@pytest.mark.parametrize("name", SMALL)
def test_every_preset_can_be_built(name: str) -> None:
    for size, settings in RECIPES[name].model.items():
        shape = ImageShape(channels=3, height=size, width=size, classes=2, condition_channels=3)
        check_family(name, family_config(name, settings), shape)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_searched_setting_has_an_effect(variant: str) -> None:
    family = small(variant)
    space = RECIPES[family.name].space(family.config)
    model = {key.removeprefix("model."): limits for key, limits in space.items() if key.startswith("model.")}
    assert all(limits["low"] < limits["high"] for limits in space.values())
    losses = {}
    for name, limits in model.items():
        losses[name] = []
        for value in (limits["low"], limits["high"]):
            other = small(variant, **{name: value})
            batch = some_batch(other, n=4)
            losses[name].append([phase.loss(batch, 0).total.item() for phase in other.phases()])
    for name, (low, high) in losses.items():
        assert low != high, name


# -- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_with_the_same_bytes(
    variant: str, device: str, data: dict[str, Path], tmp_path: Path
) -> None:
    how = {"device": device, "mirror": True, "decay_from": 0.5}
    if device == "cuda":
        how["precision"] = "auto"
    whole = trainer_of(variant, data[variant], tmp_path / "whole", **how)
    whole.run()
    trainer_of(variant, data[variant], tmp_path / "parts", **how).run(4)  # one step more than is saved
    parts = trainer_of(variant, data[variant], tmp_path / "parts", **how)
    assert parts.step == 3
    parts.run()
    saved = [load_checkpoint(list_checkpoints(tmp_path / place)[0]).tensors for place in ("whole", "parts")]
    assert saved[0].keys() == saved[1].keys()
    assert not [key for key in saved[0] if not torch.equal(saved[0][key], saved[1][key])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_generator_translates_as_the_trained_one(
    variant: str, data: dict[str, Path], tmp_path: Path
) -> None:
    trainer = trainer_of(variant, data[variant], tmp_path / "run")
    trainer.run(3)
    trainer.export(tmp_path / "generator")
    loaded, checkpoint = load_generator(tmp_path / "generator"), load_generator(tmp_path / "run")
    images = torch.randint(0, 256, (5, trainer.family.source_channels, 20, 16), dtype=torch.uint8)
    assert loaded.translates
    assert loaded.directions == trainer.generator.directions
    for _, target in trainer.generator.directions:
        wanted = trainer.generator.translate(images, target, 1)
        assert wanted.shape == (5, 3, 20, 16)
        assert torch.equal(loaded.translate(images, target, 1), wanted)
        assert torch.equal(checkpoint.translate(images, target, 1), wanted)
    reals = preview_batch(trainer.dataset, "train", torch.device("cpu"))
    assert torch.equal(loaded.preview(reals)[0], trainer.generator.preview()[0])


@pytest.mark.parametrize("variant", ["cyclegan", "stargan", "stargan2"])
def test_the_discriminators_images_may_be_augmented(variant: str, data: dict[str, Path], tmp_path: Path) -> None:
    losses = []
    for kind in ("none", "diffaugment"):
        trainer = trainer_of(variant, data[variant], tmp_path / kind, augment=AugmentConfig(kind=kind))
        losses.append(trainer.family.discriminator_loss(trainer._batches(0, last=True)[0], 0).total.item())
        trainer.run(2)
    assert losses[0] != losses[1]


def losses_of(variant: str, data: Path, place: Path) -> list[dict[str, float]]:
    # Small steps: rounding grows from step to step in all adversarial training.
    trainer = trainer_of(variant, data, place / variant, log_every=1, generator_lr=1e-4, discriminator_lr=1e-4)
    rows = []

    class Kept(Observer):
        def metrics(self, values: dict[str, float], step: int) -> None:
            rows.append({name: value for name, value in values.items() if name.startswith(("loss/", "penalty/"))})

    trainer.observer = Kept()
    trainer.run()
    return rows


def _worker(rank: int, folder: str, data: dict[str, Path]) -> None:
    torch.set_num_threads(1)
    home = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{home / 'meet'}", rank=rank, world_size=2)
    rows = {variant: losses_of(variant, data[variant], home / f"worker{rank}") for variant in VARIANTS}
    if rank == 0:
        (home / "rows.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def test_two_workers_train_every_family_to_the_losses_of_one_with_the_same_total_batch(
    data: dict[str, Path], tmp_path: Path
) -> None:
    mp.spawn(_worker, (str(tmp_path), data), nprocs=2)
    pair = json.loads((tmp_path / "rows.json").read_text())
    for variant in VARIANTS:
        alone = losses_of(variant, data[variant], tmp_path / "alone")
        assert len(alone) == 6
        for one, two in zip(alone, pair[variant], strict=True):
            assert two == pytest.approx(one, rel=1e-3, abs=1e-4), variant
        assert np.ptp([row["loss/generator"] for row in alone]) > 0, variant
