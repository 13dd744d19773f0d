from pathlib import Path

import numpy as np
import pytest

from gan_core import array_file
from gan_core.array_file import map_array, write_array
from gan_core.errors import DataError


@pytest.mark.parametrize("shape", [(0, 3), (5, 3), (64, 4)])
def test_an_array_comes_back_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(array_file, "_BLOCK", 100)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    with write_array(tmp_path / "a.npy", shape, np.float32) as array:
        array[:] = values
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy", shape, np.float32), values)


def test_any_flipped_byte_or_lost_end_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "_BLOCK", 100)
    path = tmp_path / "a.npy"
    with write_array(path, (16, 20), np.uint8) as array:
        array[:] = np.arange(320).reshape(16, 20) % 251
    whole, values = path.read_bytes(), np.array(map_array(path, (16, 20), np.uint8))
    for place in range(len(whole)):
        for bit in (1, 4, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                found = map_array(path, (16, 20), np.uint8)
            except DataError:
                continue
            assert place < len(whole) - values.size - 16  # a space of the header, which means nothing
            np.testing.assert_array_equal(found, values)
        path.write_bytes(whole[:place])
        with pytest.raises(DataError, match=r"a\.npy"):
            map_array(path, (16, 20), np.uint8)


def test_another_shape_type_or_content_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with write_array(path, (4, 2), np.uint8):
        pass
    with pytest.raises(DataError, match=r"a\.npy holds uint8 \(4, 2\), expected uint8 \(4, 3\)"):
        map_array(path, (4, 3), np.uint8)
    with pytest.raises(DataError, match="expected float32"):
        map_array(path, (4, 2), np.float32)
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match=r"a\.npy is not an array"):
        map_array(path, (4, 2), np.uint8)
    with pytest.raises(FileNotFoundError):
        map_array(tmp_path / "none.npy", (4, 2), np.uint8)


def test_nothing_is_left_of_an_array_that_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_array(tmp_path / "a.npy", (4, 2), np.uint8):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
