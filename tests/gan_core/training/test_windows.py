"""The order of streamed data: every picture once an epoch, mixed in windows, a function of (seed, epoch)."""

import numpy as np
import pytest

from gan_core.training.windows import WindowedOrder

ROWS = np.array([5, 3, 0, 7, 5, 4, 6])
SIZES = ROWS * 100


def order(seed: int = 0, window_bytes: int = 1200) -> WindowedOrder:
    return WindowedOrder(ROWS, SIZES, window_bytes=window_bytes, seed=seed)


def epoch_of(made: WindowedOrder, epoch: int) -> list[tuple[int, int]]:
    key, pictures = (epoch, 0), []
    while key[0] == epoch:
        window = made.window(key)
        assert window.first == epoch * made.count + len(pictures)
        pictures += zip(window.groups.tolist(), window.members.tolist(), strict=True)
        key = made.after(key)
    return pictures


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_epoch_shows_every_picture_once(epoch: int) -> None:
    assert sorted(epoch_of(order(), epoch)) == [(g, m) for g, rows in enumerate(ROWS) for m in range(rows)]


def test_the_order_depends_on_seed_and_epoch() -> None:
    assert epoch_of(order(), 3) == epoch_of(order(), 3)
    assert epoch_of(order(), 3) != epoch_of(order(), 4)
    assert epoch_of(order(), 3) != epoch_of(order(seed=1), 3)


def test_a_window_mixes_neighbouring_row_groups_and_is_limited_in_bytes() -> None:
    made, mixed = order(), False
    key = (0, 0)
    while key[0] == 0:
        window = made.window(key)
        groups = list(dict.fromkeys(window.groups.tolist()))
        assert sum(SIZES[groups]) <= 1200
        mixed |= window.groups.tolist() != sorted(window.groups.tolist(), key=groups.index)
        key = made.after(key)
    assert mixed


def test_a_row_group_above_the_limit_is_a_window_of_its_own() -> None:
    assert set(np.bincount(order(window_bytes=1).window((0, 0)).groups)) <= {0, *ROWS.tolist()}
    assert len(set(order(window_bytes=1).window((0, 0)).groups)) == 1


def test_a_position_is_found_in_any_epoch_without_the_ones_before() -> None:
    for position in range(3 * ROWS.sum()):
        window = order().window(order().key_of(position))
        assert window.first <= position < window.first + len(window.groups)
