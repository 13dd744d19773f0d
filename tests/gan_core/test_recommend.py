"""A recommendation follows the data, and its costs follow the work."""

import pytest

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
