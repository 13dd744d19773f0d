"""A recommendation follows the data, and its costs follow the work."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gan_core.families import build_family, family_config
from gan_core.presets import choose
from gan_core.recommend import cost, order, recommend
from tests.gan_core.test_presets import CPU, ImageShape, info


@pytest.mark.parametrize(
    ("pictures", "classes", "first"),
    [(2_000, 0, "stylegan2"), (2_000, 10, "stylegan2"), (60_000, 10, "biggan"), (60_000, 0, "stylegan2")],
)
def test_few_pictures_ask_for_ada_and_many_with_labels_for_biggan(pictures: int, classes: int, first: str) -> None:
    ranked = order(info(pictures=pictures, classes=classes))
    assert ranked[0][0] == first
    assert "dcgan" in dict(ranked)
    assert ("cgan" in dict(ranked)) == ("biggan" in dict(ranked)) == bool(classes)
    assert ("stargan" in dict(ranked)) == ("stargan2" in dict(ranked)) == bool(classes), "classes may be domains"


def test_a_family_that_cannot_make_such_pictures_comes_last_and_says_why() -> None:
    found = recommend(info(256, classes=0), CPU)
    assert found[-1].family == "dcgan"
    assert found[-1].hours is None
    assert "128" in found[-1].problem
    assert all(entry.hours > 0 for entry in found[:-1])


def test_the_cost_of_the_papers_dcgan_is_its_multiplications() -> None:
    """At 32 pixels and width 128, by hand: 2 operations a product; three passes of G, eight of D."""
    shape = ImageShape(channels=3, height=32, width=32)
    up = 2 * 16 * (512 * 256 * 4 * 4 + 256 * 128 * 8 * 8 + 128 * 3 * 16 * 16) + 2 * 100 * 512 * 16
    down = 2 * 16 * (3 * 128 * 16 * 16 + 128 * 256 * 8 * 8 + 256 * 512 * 4 * 4) + 2 * 512 * 16
    assert cost("dcgan", shape, {}) == pytest.approx(3 * up + 8 * down, rel=0.01)


def test_the_estimate_is_of_what_auto_would_train_on_this_device() -> None:
    """Without a GPU, of the narrower networks."""
    shape = ImageShape(channels=3, height=32, width=32)
    assert cost("dcgan", shape, {"width": 48}) < 0.25 * cost("dcgan", shape, {})


@pytest.mark.parametrize(
    ("kind", "more", "family", "reason"),
    [
        ("paired", {"condition_channels": 1, "derived": "greyscale"}, "pix2pix", "colours for grey pictures"),
        ("paired", {"condition_channels": 3}, "pix2pix", "the picture of each condition"),
        ("unpaired", {"classes": ("cats", "dogs")}, "cyclegan", "translates cats to dogs and back"),
        ("domains", {"classes": ("a", "b", "c")}, "stargan", "3 domains"),
        ("domains", {"attributes": ("old", "smiling")}, "stargan", "2 attributes"),
    ],
)
def test_data_to_translate_asks_for_a_family_that_does(kind: str, more: dict, family: str, reason: str) -> None:
    data = dataclasses.replace(info(32, classes=0), kind=kind, **more)
    first, *others = order(data)
    assert first[0] == family
    assert reason in first[1]
    assert others
    rest = [(name, text) for name, text in others if name != "stargan2"]
    assert ("stargan2" in dict(others)) == (kind == "domains" and "classes" in more)
    assert all(text.startswith("new pictures, not translations") for _, text in rest)
    assert "pix2pix" not in dict(order(info(32, classes=10)))
    for choice in choose(family, data, CPU, steps=100):
        assert choice.name != "train.augment", "what translates is not given augmented pictures unasked"


def test_the_cost_of_a_translator_is_that_of_its_passes() -> None:
    """Of Pix2Pix: the generator forwards and back, the discriminator so of real and of fake, and through it once more."""
    shape = ImageShape(channels=3, height=64, width=64, condition_channels=3)
    with torch.device("meta"):
        family = build_family("pix2pix", family_config("pix2pix", {"dropout": 0.0}), shape)
        conditions, pairs = torch.zeros(1, 3, 64, 64), torch.zeros(1, 6, 64, 64)
    forward = {}
    for name, inputs in (("generator", (conditions, ())), ("discriminator", (pairs,))):
        with FlopCounterMode(display=False) as counter:
            family.networks[name](*inputs)
        forward[name] = counter.get_total_flops()
    expected = 3 * forward["generator"] + 8 * forward["discriminator"]
    # A little less: nothing is differentiated by the pictures themselves.
    assert 0.9 * expected < cost("pix2pix", shape, {}) <= expected
