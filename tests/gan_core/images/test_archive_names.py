"""Zip member names are decoded correctly, or an error asks for their encoding."""

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from gan_core.errors import DataError
from gan_core.images.archive_names import decode_names, zip_members


class _RawInfo(zipfile.ZipInfo):
    """A member whose name is written as the bytes that cp437 makes of it, without the flag of UTF-8."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802
        return self.filename.encode("cp437"), self.flag_bits & ~0x800


def zip_of(path: Path, names: dict[bytes, bytes], extra: bytes = b"") -> Path:
    """A zip whose members have the names ``names``, written as they are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in names.items():
            info = _RawInfo(name.decode("cp437"))
            info.extra = extra
            archive.writestr(info, content)
    return path


def names_in(path: Path, encoding: str | None = None) -> list[str]:
    with zipfile.ZipFile(path) as zipped:
        return [member.name for member in zip_members(zipped, path, encoding)]


@pytest.mark.parametrize(
    ("encoding", "names", "warned"),
    [
        ("utf-8", ["猫/写真.png", "café/1.png", "cafe\u0301/2.png"], False),
        ("cp932", ["猫/写真.png", "ネコ/表.png", "plain/ソ.png"], True),  # 表 and ソ have a backslash for a second byte
        ("cp437", ["café/1.png", "Müller/2.png", "été/3.png"], True),
        ("cp437", ["année.png"], True),
    ],
)
def test_the_encoding_of_unmarked_names_is_detected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, names: list[str], warned: bool
) -> None:
    path = zip_of(tmp_path / "z.zip", {name.encode(encoding): name.encode() for name in names})
    assert names_in(path) == names
    assert (f"read as {encoding}, such as" in caplog.text) == warned
    with zipfile.ZipFile(path) as zipped:
        for member in zip_members(zipped, path):
            assert zipped.read(member.info).decode() == member.name


@pytest.mark.parametrize(
    ("raw", "readings"),
    [
        ("猫.png".encode("cp932"), r"'猫\.png' \(cp932\) or 'öL\.png' \(cp437\)"),
        ("Größe.png".encode("cp437"), r"\(cp932\) or 'Größe\.png' \(cp437\)"),
        ("été_x.png".encode("latin-1"), r"\(cp932\) or 'été_x\.png' \(latin-1\)"),
        ("Straß.png".encode("cp437"), r"'Straß\.png' \(cp437\) or 'Straá\.png' \(latin-1\)"),
    ],
    ids=["kanji", "cp437", "latin-1", "sharp s"],
)
def test_names_that_fit_two_encodings_are_refused(tmp_path: Path, raw: bytes, readings: str) -> None:
    with pytest.raises(
        DataError, match="is not UTF-8, and the archive does not state its encoding; it may be .*" + readings
    ):
        names_in(zip_of(tmp_path / "z.zip", {raw: b""}))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_western_names_in_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    names = ["café/1.png", "Größe/2.png", "été/3.png", "chien/élan.png"]
    path = zip_of(tmp_path / "z.zip", {name.encode(encoding): b"" for name in names})
    with pytest.raises(DataError, match=r"z\.zip: the name caf\\xe9/1\.png is not UTF-8.*--encoding"):
        names_in(path)
    assert names_in(path, encoding) == names


@pytest.mark.parametrize(
    ("encoding", "name"), [("gbk", "猫/照片.png"), ("euc-kr", "고양이/1.png"), ("cp866", "кошка/1.png")]
)
def test_names_in_other_scripts_need_encoding_stated(tmp_path: Path, encoding: str, name: str) -> None:
    path = zip_of(tmp_path / "z.zip", {name.encode(encoding): b""})
    with pytest.raises(DataError, match="is not UTF-8, and the archive does not state its encoding. Give the encoding"):
        names_in(path)
    assert names_in(path, encoding) == [name]


def test_an_encoding_that_does_not_fit_or_does_not_exist_is_an_error(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "z.zip", {"猫.png".encode("cp932"): b""})
    with pytest.raises(DataError, match=r"the name \\x94L\.png is not valid utf-8"):
        names_in(path, "utf-8")
    with pytest.raises(DataError, match="Python has no encoding named 'shift-jus'"):
        names_in(path, "shift-jus")


def test_the_unicode_path_field_is_used_if_its_checksum_matches_the_name(tmp_path: Path) -> None:
    raw, meant = "чат.png".encode("cp866"), "чат.png"
    for checksum, expected in ((zlib.crc32(raw), meant), (zlib.crc32(b"another"), None)):
        data = b"\1" + struct.pack("<I", checksum) + meant.encode()
        path = zip_of(tmp_path / "z.zip", {raw: b""}, struct.pack("<HH", 0x7075, len(data)) + data)
        if expected:
            assert names_in(path) == [expected]
        else:
            with pytest.raises(DataError, match="is not UTF-8"):
                names_in(path)


def test_names_marked_as_utf8_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("猫/1.png", b"")
        archive.writestr("a.png", b"")
    assert names_in(path, "cp932") == ["猫/1.png", "a.png"]


def test_backslashes_are_separators_and_may_not_leave_the_archive(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "z.zip", {b"cat\\1.png": b"", b"dog\\": b"", b"a/./b/../c.png": b""})
    with zipfile.ZipFile(path) as zipped:
        found = [(member.name, member.is_folder) for member in zip_members(zipped, path)]
    assert found == [("cat/1.png", False), ("dog", True), ("a/c.png", False)]
    for name in (b"..\\x.png", b"/x.png", b"C:\\x.png", b"a/../../x.png"):
        with pytest.raises(DataError, match="would be written outside the target folder"):
            names_in(zip_of(tmp_path / "bad.zip", {name: b""}))


def test_a_path_that_no_disk_holds_is_refused(tmp_path: Path) -> None:
    assert names_in(zip_of(tmp_path / "z.zip", {b"a/" * 2045 + b"x.png": b""})) == ["a/" * 2045 + "x.png"]
    with pytest.raises(DataError, match=r"bad\.zip is refused: the path of a member has 10005 characters"):
        names_in(zip_of(tmp_path / "bad.zip", {b"a/" * 5000 + b"x.png": b""}))


def test_a_colon_in_a_name_is_not_a_drive(tmp_path: Path) -> None:
    names = ["a:b.png", "x/c:d.png", "time 12:30.png", "C:"]
    assert names_in(zip_of(tmp_path / "z.zip", {name.encode(): b"" for name in names})) == names
    for name in (b"c:/x.png", b"./C:/x.png"):
        with pytest.raises(DataError, match="would be written outside the target folder"):
            names_in(zip_of(tmp_path / "bad.zip", {name: b""}))


def test_ascii_names_need_no_encoding_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert decode_names([b"a.png", b"b.png"], Path("z.zip")) == ["a.png", "b.png"]
    assert not caplog.text
