"""CycleGAN: the paper's networks and losses, a pool of earlier pictures that all workers share, two domains of 16 learnt."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.batch import Batch
from gan_core.families import ImageShape, _Unfilled, build_family, family_config
from gan_core.families.contrastive import ContrastiveGenerator, patch_nce
from gan_core.families.cyclegan import CycleGan
from gan_core.families.translation_layers import ResidualBlock
from gan_core.randomness import WorkerSlice
from tests.datasets import write_prepared
from tests.gan_core.families.translations import error, small, some_batch, trainer_of, two_colours


def cyclegan(**settings: object) -> CycleGan:
    family = small("cyclegan", **settings)
    assert isinstance(family, CycleGan)
    return family


@pytest.mark.parametrize(("size", "blocks"), [(128, 6), (255, 6), (256, 9)])
def test_the_residual_blocks_follow_the_resolution(size: int, blocks: int) -> None:
    with torch.device("meta"), _Unfilled():
        shape = ImageShape(channels=3, height=size, width=size, classes=2)
        networks = build_family("cyclegan", family_config("cyclegan", {}), shape).networks
    for name in ("a_to_b", "b_to_a"):
        assert sum(isinstance(module, ResidualBlock) for module in networks[name].modules()) == blocks
        # 7x7, halved twice, the blocks, doubled twice, 7x7; a scale and a shift for each map that is normalised.
        maps = 3 * 64 * 49 * 2 + 2 * 9 * (64 * 128 + 128 * 256) + blocks * 2 * 9 * 256**2
        assert sum(p.numel() for p in networks[name].parameters()) == maps + 3 + 2 * (
            2 * (64 + 128) + 256 * (1 + 2 * blocks)
        )


def test_the_losses_are_the_papers() -> None:
    family = cyclegan(cycle=5.0, identity=0.3)
    batch = some_batch(family, n=3)
    networks, a, b = family.networks, batch.condition, batch.real
    to_b, to_a = networks["a_to_b"], networks["b_to_a"]
    fake_a, fake_b = to_a(b), to_b(a)
    wanted = torch.zeros(())
    for name, real, fake in (("a", a, fake_a), ("b", b, fake_b)):
        judge = networks[name]
        wanted = wanted + ((judge(real) - 1).square().mean() + judge(fake).square().mean()) / 2
    torch.testing.assert_close(family.discriminator_loss(batch, 0).total, wanted)

    adversarial = (networks["b"](fake_b) - 1).square().mean() + (networks["a"](fake_a) - 1).square().mean()
    cycle = (to_a(fake_b) - a).abs().mean() + (to_b(fake_a) - b).abs().mean()
    identity = (to_b(b) - b).abs().mean() + (to_a(a) - a).abs().mean()
    losses = family.generator_loss(batch, 0)
    torch.testing.assert_close(losses.total, adversarial + 5 * cycle + 5 * 0.3 * identity)
    torch.testing.assert_close(losses.scalars["loss/cycle"], cycle.detach())


def test_without_a_weight_the_identity_loss_is_not_computed() -> None:
    family = cyclegan(identity=0.0)
    rows = []
    family.networks["a_to_b"].register_forward_hook(lambda net, given, made: rows.append(len(made)))
    assert family.generator_loss(some_batch(family, n=4), 0).scalars["loss/identity"] == 0
    assert rows == [4, 4]


# -- the contrastive objective ---------------------------------------------------------------------------------------


def test_patch_nce_by_hand() -> None:
    """Two positions, features of length 1; a query equal to its key, and one between both."""
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    even = torch.full((1, 2, 2), 0.5**0.5)
    own, unsure = (patch_nce([queries], [keys], 0.5).item() for queries in (keys, even))
    assert own == pytest.approx(math.log(1 + math.exp(-1 / 0.5)))
    assert unsure == pytest.approx(math.log(2))
    assert patch_nce([keys, even], [keys, keys], 0.5).item() == pytest.approx((own + unsure) / 2)


def test_a_contrastive_generator_returns_features_of_5_layers_and_translates_the_same() -> None:
    torch.manual_seed(0)
    network = ContrastiveGenerator(3, 4, 6)
    images = torch.rand(2, 3, 16, 16)
    places = network.places(16, 16, 20, torch.device("cpu"), 0)
    assert [len(of) for of in places] == [20, 20, 16, 16, 16]
    assert [int(of.max()) < size for of, size in zip(places, (256, 64, 16, 16, 16), strict=True)] == [True] * 5
    pictures, seen = network(images, places)
    torch.testing.assert_close(pictures, network(images))
    assert [tuple(layer.shape) for layer in seen] == [(2, len(of), 256) for of in places]
    for alone, beside in zip(network(images, places, False), seen, strict=True):
        torch.testing.assert_close(alone, beside)


def test_the_contrastive_losses_are_the_papers() -> None:
    family = cyclegan(objective="contrastive", patches=9, contrast=2.0, identity=1.0)
    batch = some_batch(family, n=3)
    losses = family.generator_loss(batch, 0)
    wanted = torch.zeros(())
    for name, judge, source, target in (
        ("a_to_b", "b", batch.condition, batch.real),
        ("b_to_a", "a", batch.real, batch.condition),
    ):
        network = family.networks[name]
        places = family._places(name, source, batch)
        wanted = wanted + (family.networks[judge](network(source)) - 1).square().mean()
        for images in (source, target):
            seen, again = network(images, places, False), network(network(images), places, False)
            wanted = wanted + 2 * patch_nce(again, seen, 0.07).mean()
    torch.testing.assert_close(losses.total, wanted)


# -- the pool --------------------------------------------------------------------------------------------------------


def numbered(first: int, n: int) -> Tensor:
    """Pictures that each are one number."""
    return torch.arange(first, first + n).float()[:, None, None, None].expand(-1, 3, 16, 16).contiguous()


def shown(family: CycleGan, new: Tensor, step: int, part: WorkerSlice | None = None) -> list[int]:
    batch = Batch(real=new, labels=None, key=(0, 0, step), part=part or WorkerSlice())
    return family.query_pool("a", new, batch)[:, 0, 0, 0].int().tolist()


def pooled(family: CycleGan) -> list[int]:
    return family.buffers["pool_a"][:, 0, 0, 0].int().tolist()


def test_until_the_pool_is_full_every_picture_is_stored_and_returned() -> None:
    family = cyclegan(pool=10)
    assert shown(family, numbered(1, 4), 0) == [1, 2, 3, 4]
    assert shown(family, numbered(5, 4), 1) == [5, 6, 7, 8]
    assert pooled(family) == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]
    assert family.buffers["pooled_a"] == 8


def test_with_a_full_pool_half_are_exchanged_for_earlier_ones() -> None:
    family = cyclegan(pool=10)
    exchanged = seen = 0
    for step in range(100):
        before, new = pooled(family), list(range(1 + 7 * step, 8 + 7 * step))
        found = shown(family, numbered(new[0], 7), step)
        # What is shown and what is kept together are what was kept and what is new: nothing twice, nothing lost.
        both = sorted(found + [x for x in pooled(family) if x])
        if step >= 2:
            assert both == sorted(before + new)
            exchanged, seen = exchanged + sum(x < new[0] for x in found), seen + 7
    assert exchanged / seen == pytest.approx(0.5, abs=0.06)


def test_a_batch_larger_than_the_pool_goes_through_it_in_pieces() -> None:
    family = cyclegan(pool=3)
    found = shown(family, numbered(1, 10), 0)
    assert found[:3] == [1, 2, 3]
    # These are shown and kept; of the others each is shown or kept.
    assert sorted(found + pooled(family)) == sorted([*range(1, 11), 1, 2, 3])


def test_without_a_pool_new_pictures_are_returned() -> None:
    family = cyclegan(pool=0)
    assert family.buffers == {}
    assert shown(family, numbered(1, 4), 0) == [1, 2, 3, 4]


# -- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_two_domains_of_16(tmp_path: Path) -> None:
    """To 20 grey levels from what each picture is in the other colour, 96 from which it was; no pair is ever shown."""
    pictures, others, labels = two_colours()
    data = write_prepared(tmp_path / "data", pictures, labels, kind="unpaired")
    often = {"steps": 80, "batch": 8, "log_every": 40, "checkpoint_every": 80, "decay_from": 0.5}
    rates = {"generator_lr": 2e-3, "discriminator_lr": 5e-4}
    trainer = trainer_of("cyclegan", data, tmp_path, model={"width": 8, "pool": 50}, **often, **rates)
    trainer.run()
    for domain in (0, 1):
        rows = np.flatnonzero(labels == domain)
        source = torch.from_numpy(pictures[rows])
        assert error(source, others[rows]) > 90
        assert error(trainer.generator.translate(source, 1 - domain), others[rows]) < 20
