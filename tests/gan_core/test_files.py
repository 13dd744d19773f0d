"""Files are whole or absent; digests name content."""

import hashlib
from pathlib import Path

import pytest

from gan_core import files


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_replacing_leaves_the_old_file_and_no_trace_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")

    def write_half() -> None:
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            assert target.read_text() == "old"  # a reader meanwhile sees the old file
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_replacing_makes_missing_parents_and_leaves_only_the_result(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep" / "er" / "b.txt", "ü\n")
    assert (tmp_path / "deep" / "er" / "b.txt").read_bytes() == "ü\n".encode()
    assert names(tmp_path / "deep" / "er") == ["b.txt"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with files.replacing(target) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert names(target) == ["second"]
    assert names(tmp_path) == ["folder"]


def test_json_is_sorted_keeps_unicode_and_reads_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "Schnürsenkel"}
    files.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert "Schnürsenkel" in text
    assert text.endswith("}\n")
    assert files.read_json(tmp_path / "v.json") == value


def test_sha256_file_is_the_sum_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "c").write_bytes(content)
    assert files.sha256_file(tmp_path / "c") == hashlib.sha256(content).hexdigest()


def test_sha256_json_does_not_depend_on_the_order_of_keys_but_on_values() -> None:
    assert files.sha256_json({"a": 1, "b": 2}) == files.sha256_json({"b": 2, "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})
