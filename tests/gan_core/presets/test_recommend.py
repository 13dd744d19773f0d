"""The recommended families depend on the data."""

import dataclasses

import pytest

from gan_core.presets.choose import choose
from gan_core.presets.recommend import rank_families, recommend
from tests.gan_core.presets.test_choose import CPU, info


@pytest.mark.parametrize(
    ("pictures", "classes", "first"),
    [(2_000, 0, "stylegan2"), (2_000, 10, "stylegan2"), (60_000, 10, "biggan"), (60_000, 0, "stylegan2")],
)
def test_ada_for_few_pictures_and_biggan_for_many_with_labels(pictures: int, classes: int, first: str) -> None:
    ranked = rank_families(info(pictures=pictures, classes=classes))
    assert ranked[0][0] == first
    assert "dcgan" in dict(ranked)
    assert ("cgan" in dict(ranked)) == ("biggan" in dict(ranked)) == bool(classes)
    assert ("stargan" in dict(ranked)) == ("stargan2" in dict(ranked)) == bool(classes), "classes may be domains"


def test_a_family_that_cannot_generate_such_pictures_comes_last_with_the_reason() -> None:
    found = recommend(info(512, classes=0), CPU)
    assert {entry.family for entry in found if entry.hours is None} == {entry.family for entry in found[1:]}
    assert "256" in found[-1].problem
    assert found[0].family == "stylegan2"
    assert found[0].hours > 0


@pytest.mark.parametrize(
    ("kind", "more", "family", "reason"),
    [
        ("paired", {"condition_channels": 1, "derived": "greyscale"}, "pix2pix", "colours for grey pictures"),
        ("paired", {"condition_channels": 3}, "pix2pix", "the target picture of each condition"),
        ("unpaired", {"classes": ("cats", "dogs")}, "cyclegan", "translates cats to dogs and back"),
        ("domains", {"classes": ("a", "b", "c")}, "stargan", "3 domains"),
        ("domains", {"attributes": ("old", "smiling")}, "stargan", "2 attributes"),
    ],
)
def test_translation_data_gets_a_translation_family(kind: str, more: dict, family: str, reason: str) -> None:
    data = dataclasses.replace(info(32, classes=0), kind=kind, **more)
    first, *others = rank_families(data)
    assert first[0] == family
    assert reason in first[1]
    assert others
    rest = [(name, text) for name, text in others if name != "stargan2"]
    assert ("stargan2" in dict(others)) == (kind == "domains" and "classes" in more)
    assert all(text.startswith("new pictures, not translations") for _, text in rest)
    assert "pix2pix" not in dict(rank_families(info(32, classes=10)))
    for choice in choose(family, data, CPU, steps=100):
        assert choice.name != "train.augment", "what translates is not given augmented pictures unasked"
