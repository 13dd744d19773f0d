"""The data's order is a function of (seed, epoch), shared out among workers; pictures arrive as they are."""

import logging

import numpy as np
import psutil
import pytest
import torch

from gan_core.errors import DataError
from gan_core.randomness import Slice
from gan_core.training.feed import Feed, Order

CPU = torch.device("cpu")


def numbered(count: int, size: int = 4) -> np.ndarray:
    """Picture i is i everywhere but at its left border, where it is 255."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(size, 2).repeat(size, 3)
    pixels[..., 0] = 255
    return pixels


def feed(count: int = 20, batch: int = 8, part: Slice | None = None, labels: bool = False, **options) -> Feed:
    return Feed(
        numbered(count),
        np.arange(count, dtype=np.int64) * 10 if labels else None,
        batch=batch,
        seed=options.pop("seed", 0),
        device=CPU,
        part=part or Slice(),
        **options,
    )


def shown(images: torch.Tensor) -> list[int]:
    """Which pictures these are."""
    return images[:, 0, 0, 1].add(1).mul(127.5).round().int().tolist()


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_epoch_is_a_permutation(epoch: int) -> None:
    assert sorted(Order(37, seed=0).indices(37 * epoch, 37).tolist()) == list(range(37))


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int, first: int) -> list[int]:
        return Order(50, seed).indices(first, 50).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 50)


@pytest.mark.parametrize("first", [0, 5, 36, 37, 100])
def test_any_piece_of_the_order_is_the_same_however_it_is_asked_for(first: int) -> None:
    whole = torch.cat([Order(37, 3).indices(i, 1) for i in range(260)])
    assert torch.equal(Order(37, 3).indices(first, 150), whole[first : first + 150])


def test_a_resumed_feed_serves_the_batches_that_an_uninterrupted_one_does() -> None:
    running, resumed = feed(labels=True), feed(labels=True)
    batches = [running(step) for step in range(8)]
    for step in (5, 6, 7):
        images, labels = resumed(step)
        assert torch.equal(images, batches[step][0])
        assert torch.equal(labels, batches[step][1])


@pytest.mark.parametrize("world", [2, 4])
def test_the_workers_rows_make_up_the_whole_batch(world: int) -> None:
    for step in range(4):
        parts = [feed(part=Slice(rank, world), mirror=True)(step)[0] for rank in range(world)]
        assert torch.equal(torch.cat(parts), feed(mirror=True)(step)[0])


def test_images_arrive_in_minus_one_to_one_channels_last_with_their_labels() -> None:
    images, labels = feed(labels=True)(0)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.max() == 1
    assert images.min() >= -1
    assert labels is not None
    assert labels.tolist() == [10 * i for i in shown(images)]


def test_values_map_linearly_from_bytes() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images, _ = Feed(pixels, None, batch=1, seed=0, device=CPU, part=Slice())(0)
    np.testing.assert_allclose(images[0, 0].numpy().ravel(), np.arange(256) / 127.5 - 1, atol=1e-6)


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    images, _ = feed(count=3, batch=8)(0)
    assert len(images) == 8
    assert set(shown(images)) == {0, 1, 2}


def test_mirroring_flips_about_half_the_pictures_left_to_right_and_is_a_function_of_the_step() -> None:
    plain, mirrored = feed(count=200, batch=200), feed(count=200, batch=200, mirror=True)
    before, after = plain(0)[0], mirrored(0)[0]
    flipped = (after[:, 0, 0, -1] == 1).tolist()
    assert 60 < sum(flipped) < 140
    for index, flip in enumerate(flipped):
        assert torch.equal(after[index], before[index].flip(2) if flip else before[index])
    assert torch.equal(feed(count=200, batch=200, mirror=True)(0)[0], after)
    assert (mirrored(1)[0][:, 0, 0, -1] == 1).tolist() != flipped


def test_a_set_too_large_for_memory_is_read_from_the_map_and_serves_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resident = feed(labels=True)
    little = type("Memory", (), {"available": 400})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with caplog.at_level(logging.INFO):
        mapped = feed(labels=True)
    assert "mapped from disk" in caplog.text
    for step in range(4):
        for a, b in zip(mapped(step), resident(step), strict=True):
            assert torch.equal(a, b)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="train split holds no picture"):
        Feed(np.zeros((0, 1, 4, 4), np.uint8), None, batch=2, seed=0, device=CPU, part=Slice())
