"""A version is made again from what it started from, or not at all."""

import pytest

from gan_core.errors import TrackingError
from pipelines.flow import reproduce as reproducing
from pipelines.flow.reproduce import _parent_of, _steps_of, _with_decided_steps
from pipelines.registry.parent import Parent
from pipelines.runtime.checkout import Checkout

CHECKOUT, URI = Checkout.at("."), "sqlite:///unused.db"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the version faces/1 only."""

    def find(name: str, checkout: Checkout, uri: str) -> Parent:
        assert name == "faces/1"
        return Parent(name=name, digest="a" * 64, images_seen=64, dvc="0.dir")

    monkeypatch.setattr(reproducing, "find_parent", find)


def test_the_tag_names_what_a_version_started_from() -> None:
    tags = {"gantry.parent": "faces/1", "gantry.parent_digest": "a" * 64}
    parent = _parent_of("faces/2", tags, CHECKOUT, URI)
    assert parent
    assert parent.name == "faces/1"
    assert _parent_of("faces/1", {}, CHECKOUT, URI) is None


def test_a_version_whose_start_has_changed_cannot_be_made_again() -> None:
    tags = {"gantry.parent": "faces/1", "gantry.parent_digest": "b" * 64}
    with pytest.raises(
        TrackingError, match=r"faces/2 cannot be made again: it started from faces/1 with the digest bbbb"
    ):
        _parent_of("faces/2", tags, CHECKOUT, URI)


def test_a_version_of_so_many_minutes_is_made_again_with_the_steps_that_these_were() -> None:
    budget = {"train": {"minutes": 15, "batch": 8}}
    assert _steps_of("faces/2", {"gantry.train_steps": "5400"}, budget) == 5400
    assert _steps_of("faces/2", {}, {"train": {"steps": 3000}}) is None
    with pytest.raises(
        TrackingError,
        match=r"faces/2 cannot be made again: it was trained for 15 minutes .* gantry\.train_steps .* but none",
    ):
        _steps_of("faces/2", {}, budget)
    overrides = {"train.minutes": 15, "train.batch": 8}
    assert _with_decided_steps(overrides, 5400) == {"train.batch": 8, "train.steps": 5400}
    assert _with_decided_steps({"train.batch": 8}, None) == {"train.batch": 8}
