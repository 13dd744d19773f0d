"""The order of the data is a function of (seed, epoch) and is divided among workers; pixels are unchanged."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.randomness import WorkerSlice
from gan_core.training.feed import Feed, ShuffledOrder, preview_batch, random_shift
from tests.datasets import write_prepared

CPU = torch.device("cpu")


def numbered(count: int, size: int = 4) -> np.ndarray:
    """Pictures for tests: picture i has the value i everywhere, except 255 at its left border."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(size, 2).repeat(size, 3)
    pixels[..., 0] = 255
    return pixels


def feed(count: int = 20, batch: int = 8, part: WorkerSlice | None = None, labels: bool = False, **options) -> Feed:
    return Feed(
        numbered(count),
        np.arange(count, dtype=np.int64) * 10 if labels else None,
        batch=batch,
        seed=options.pop("seed", 0),
        device=CPU,
        part=part or WorkerSlice(),
        **options,
    )


def feed_of(pixels: np.ndarray, labels: np.ndarray | None = None, **options) -> Feed:
    return Feed(pixels, labels, **{"batch": 8, "seed": 0, "device": CPU, "part": WorkerSlice(), **options})


def shown(images: torch.Tensor) -> list[int]:
    """The indices of the pictures in a batch."""
    return images[:, 0, 0, 1].add(1).mul(127.5).round().int().tolist()


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_epoch_is_a_permutation(epoch: int) -> None:
    assert sorted(ShuffledOrder(np.arange(37), seed=0).indices(37 * epoch, 37).tolist()) == list(range(37))


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int, first: int) -> list[int]:
        return ShuffledOrder(np.arange(50), seed).indices(first, 50).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 50)


@pytest.mark.parametrize("first", [0, 5, 36, 37, 100])
def test_the_order_does_not_depend_on_the_size_of_requests(first: int) -> None:
    whole = torch.cat([ShuffledOrder(np.arange(37), 3).indices(i, 1) for i in range(260)])
    assert torch.equal(ShuffledOrder(np.arange(37), 3).indices(first, 150), whole[first : first + 150])


def test_a_resumed_feed_returns_the_batches_of_an_uninterrupted_one() -> None:
    running, resumed = feed(labels=True), feed(labels=True)
    batches = [running(step) for step in range(8)]
    for step in (5, 6, 7):
        images, labels, _ = resumed(step)
        assert torch.equal(images, batches[step][0])
        assert torch.equal(labels, batches[step][1])


@pytest.mark.parametrize("world", [2, 4])
def test_the_workers_rows_make_up_the_whole_batch(world: int) -> None:
    for step in range(4):
        parts = [feed(part=WorkerSlice(rank, world), mirror=True)(step)[0] for rank in range(world)]
        assert torch.equal(torch.cat(parts), feed(mirror=True)(step)[0])


def test_images_are_channels_last_in_minus_one_to_one_with_labels() -> None:
    images, labels, condition = feed(labels=True)(0)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.max() == 1
    assert images.min() >= -1
    assert labels is not None
    assert labels.tolist() == [10 * i for i in shown(images)]
    assert condition is None


def test_values_map_linearly_from_bytes() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    images, *_ = Feed(pixels, None, batch=1, seed=0, device=CPU, part=WorkerSlice())(0)
    np.testing.assert_allclose(images[0, 0].numpy().ravel(), np.arange(256) / 127.5 - 1, atol=1e-6)


def test_a_data_set_smaller_than_a_batch_is_repeated() -> None:
    images, *_ = feed(count=3, batch=8)(0)
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


def test_a_data_set_too_large_for_memory_is_read_from_disk_with_the_same_batches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resident = feed(labels=True)
    monkeypatch.setattr("gan_core.training.feed.available_memory", lambda: 400)
    with caplog.at_level(logging.INFO):
        mapped = feed(labels=True)
    assert "read from disk" in caplog.text
    for step in range(4):
        for a, b in zip(mapped(step)[:2], resident(step)[:2], strict=True):
            assert torch.equal(a, b)


def test_data_is_copied_to_its_device_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, copied, copy = feed()(0)[0], [], np.array

    def counted(part: np.ndarray) -> np.ndarray:
        copied.append(part.nbytes)
        return copy(part)

    monkeypatch.setattr("gan_core.training.feed._PIECE", 100)  # pictures have 16 bytes
    monkeypatch.setattr("gan_core.training.feed.np.array", counted)
    assert torch.equal(feed()(0)[0], whole)
    assert copied == [96, 96, 96, 32]


def test_a_condition_has_the_same_jitter_and_mirroring_as_its_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    served = feed_of(pixels, conditions=255 - pixels, mirror=True, jitter=0.25)
    for step in range(3):
        images, _, condition = served(step)
        assert images.shape == condition.shape == (8, 1, 8, 8)
        torch.testing.assert_close(condition, -images)
    assert not torch.equal(images, feed_of(pixels)(2)[0])


def test_jitter_shifts_an_image_without_blurring_it() -> None:
    ramp = torch.arange(8.0).expand(3, 3, 8, 8)
    first, middle, last = random_shift(ramp, 0.5, torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.999, 0.999]]))
    assert first[0, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 5]
    assert torch.equal(middle, ramp[0])
    assert last[0, 0].tolist() == [2, 3, 4, 5, 6, 7, 6, 5]


def test_domains_of_unpaired_data_have_independent_orders() -> None:
    labels = np.array([0] * 5 + [1] * 15, dtype=np.int64)
    served = feed_of(numbered(20), labels, unpaired=True, batch=5)
    seen = [(shown(images), shown(condition)) for images, _, condition in map(served, range(6))]
    assert all(a < 5 for _, condition in seen for a in condition)
    assert sorted(b for real, _ in seen[:3] for b in real) == list(range(5, 20))
    assert sorted(seen[0][1]) == sorted(seen[1][1]) == list(range(5))
    assert served(0)[1] is None


def test_attributes_are_floats() -> None:
    attributes = np.array([[0, 1, 1]] * 20, dtype=np.int64)
    labels = feed_of(numbered(20), attributes)(0)[1]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0, 1, 1]] * 8


def test_a_domain_without_pictures_is_refused() -> None:
    with pytest.raises(DataError, match="both domains"):
        feed_of(numbered(4), np.ones(4, dtype=np.int64), unpaired=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_preview_pictures_are_always_the_same(tmp_path: Path, split: str) -> None:
    pixels = numbered(20)
    write_prepared(tmp_path, pixels, np.array([0, 1] * 10), split=split, kind="unpaired")
    reals = preview_batch(PreparedDataset(tmp_path, tmp_path), split, CPU, count=4)
    assert shown(reals.condition) == [0, 2, 4, 6]
    assert shown(reals.real) == [1, 3, 5, 7]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="train split has no pictures"):
        Feed(np.zeros((0, 1, 4, 4), np.uint8), None, batch=2, seed=0, device=CPU, part=WorkerSlice())
