"""Archives and folders are copied completely; errors name the archive, the file and the remedy."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_core.errors import DataError
from pipelines.data import names as data_names
from pipelines.data.archives import copy_tree, is_archive, looks_like_archive, unpack
from pipelines.settings.data import UnpackLimits
from tests.pipelines.data.samples import pets, png, without_privileges, write

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
NAMES = ["a/1.png", "a/2.png", "b/3.png"]


def tar(*names: str) -> bytearray:
    """An uncompressed tar; file i is the PNG of seed i."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for index, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = len(png(index))
            archive.addfile(info, io.BytesIO(png(index)))
    return bytearray(buffer.getvalue())


def zipped(path: Path, *names: str, packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for index, name in enumerate(names):
            archive.writestr(name, png(index))
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Damage


@pytest.mark.parametrize("suffix", PACKINGS)
@pytest.mark.parametrize("damage", ["another header", "zeros for a header", "cut off"])
def test_a_truncated_or_damaged_tar_is_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    content = tar(*NAMES)
    second = content.index(b"a/2.png")
    if damage == "cut off":
        del content[second + 100 :]
    else:
        content[second : second + 512] = (b"?" if damage == "another header" else b"\0") * 512
    archive = write(tmp_path / f"t{suffix}", PACKINGS[suffix](bytes(content)))
    with pytest.raises(DataError, match=rf"/t{suffix} is broken after file 1: .*Download it again"):
        unpack(archive, tmp_path / "out", "t")
    assert not (tmp_path / "out").exists()


def test_concatenated_tars_are_refused(tmp_path: Path) -> None:
    archive = write(tmp_path / "t.tar", bytes(tar("1.png") + tar("2.png")))
    with pytest.raises(DataError, match=r"broken after file 1.*tar --ignore-zeros"):
        unpack(archive, tmp_path / "out", "t")


def test_a_tar_without_an_end_marker_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = tar(*NAMES)
    archive = write(tmp_path / "t.tar", bytes(content[: content.index(b"b/3.png")]))
    unpack(archive, tmp_path / "out", "t")
    assert files(tmp_path / "out") == ["a/1.png", "a/2.png"]
    assert "t.tar ends after file 2 without an end marker" in caplog.text
    caplog.clear()
    unpack(write(tmp_path / "whole.tar", bytes(content)), tmp_path / "whole", "t")
    assert files(tmp_path / "whole") == NAMES
    assert not caplog.text


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_damaged_compression_is_refused(tmp_path: Path, suffix: str) -> None:
    content = bytearray(PACKINGS[suffix](bytes(tar(*(f"{index}.png" for index in range(200))))))
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    archive = write(tmp_path / f"t{suffix}", bytes(content))
    assert looks_like_archive(archive)
    if is_archive(archive):  # bzip2 may fail at once, because it decompresses blocks of 900 kB
        with pytest.raises(
            DataError, match=rf"/t{suffix} cannot be unpacked: .* The archive is broken\. Download it again"
        ):
            unpack(archive, tmp_path / "out", "t")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_error_names_a_damaged_member_of_a_zip(tmp_path: Path, packing: int) -> None:
    archive = zipped(tmp_path / "z.zip", "good.png", "bad.png", packing=packing)
    content = bytearray(archive.read_bytes())
    start = content.index(b"bad.png") + len("bad.png") + 4  # after the header of LZMA
    content[start : start + 40] = b"\xff" * 40
    archive.write_bytes(content)
    with pytest.raises(
        DataError, match=r"/z\.zip: bad\.png cannot be copied: .*The archive is broken\. Download it again"
    ):
        unpack(archive, tmp_path / "out", "z")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "z.zip", "a.png")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png cannot be copied: .*password.*give the folder"):
        unpack(archive, tmp_path / "out", "z")


@pytest.mark.parametrize("suffix", [".zip", *PACKINGS])
@pytest.mark.parametrize("length", [20, 700])
def test_a_truncated_archive_looks_like_an_archive(tmp_path: Path, suffix: str, length: int) -> None:
    whole = (
        zipped(tmp_path / "whole", *NAMES).read_bytes() if suffix == ".zip" else PACKINGS[suffix](bytes(tar(*NAMES)))
    )
    archive = write(tmp_path / f"cut{suffix}", whole[:length])
    if is_archive(archive):
        with pytest.raises(DataError, match=r"/cut.* Download it again"):
            unpack(archive, tmp_path / "out", "t")
    assert looks_like_archive(archive)
    assert looks_like_archive(write(tmp_path / "nameless", b"PK\3\4 and no more"))
    assert not looks_like_archive(write(tmp_path / "picture.png", png(0)))


# Names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x.png", "y.png", "./y.png"], r"contains two files with the path y\.png; one would be lost. Rename one"),
        (["a/y.png", "a/../a/y.png"], r"contains two files with the path a/y\.png"),
        (["a", "a/1.png"], "a is both a file and a folder. Rename one of them"),
        (["a/1.png", "a"], "a is both a file and a folder"),
        ([f"{'n' * 300}.png"], r": n{100}\.\.\. cannot be copied: File name too long\. Shorten its name"),
    ],
)
def test_members_with_conflicting_paths_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    archives = [write(tmp_path / "t.tar", bytes(tar(*names))), zipped(tmp_path / "z.zip", *names)]
    for archive in archives:
        with pytest.raises(DataError, match=f"{archive}:? ?{message}"):
            unpack(archive, tmp_path / "out", "x")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("Cat/1.png", "cat/2.png"), "Cat and cat are"),
        (("a/IMG_1.PNG", "a/img_1.png"), "a/IMG_1.PNG and a/img_1.png are"),
        (("caf\u00e9.png", "cafe\u0301.png"), "are"),
    ],
)
def test_names_that_the_disk_does_not_tell_apart_are_refused(
    tmp_path: Path, names: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "z.zip", *names)
    unpack(archive, tmp_path / "linux", "x")
    assert files(tmp_path / "linux") == sorted(names)
    monkeypatch.setattr(data_names, "_tells_apart", lambda folder, one, other: False)  # as on macOS and Windows
    with pytest.raises(DataError, match=rf"/z.zip: .*{told} one name on the disk of {tmp_path}/mac"):
        unpack(archive, tmp_path / "mac", "x")
    with pytest.raises(DataError, match=f"{told} one name"):
        copy_tree(tmp_path / "linux", tmp_path / "mac", "x")
    assert files(tmp_path / "mac") == []


def test_hidden_files_of_operating_systems_may_appear_twice(tmp_path: Path) -> None:
    unpack(write(tmp_path / "t.tar", bytes(tar(".DS_Store", "a.png", ".DS_Store"))), tmp_path / "out", "t")
    assert files(tmp_path / "out") == ["a.png"]


def test_a_name_that_is_not_utf_8_is_refused_and_shown_with_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write(tmp_path / "folder" / "cat" / name, png(0))
    with pytest.raises(DataError, match=r"/folder: the name cat/caf\\xe9\.png is not UTF-8\. Rename it"):
        copy_tree(tmp_path / "folder", tmp_path / "out", "x")
    archive = tmp_path / "t.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(tmp_path / "folder" / "cat" / name, name)
    with pytest.raises(DataError, match=r"/t\.tar: the name caf\\xe9\.png is not UTF-8"):
        unpack(archive, tmp_path / "out", "x")
    zipped(tmp_path / "z.zip", "é.png")
    write(tmp_path / "z.zip", (tmp_path / "z.zip").read_bytes().replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"/z\.zip cannot be unpacked: .*Download it again"):
        unpack(tmp_path / "z.zip", tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()


# What may not be read


def test_an_error_names_an_unreadable_file_or_folder(tmp_path: Path) -> None:
    source = pets(tmp_path / "pets", each=2)
    (source / "cat" / "001.png").chmod(0)
    with (
        without_privileges(),
        pytest.raises(DataError, match=r"/pets: cat/001\.png cannot be copied: Permission denied"),
    ):
        copy_tree(source, tmp_path / "out", "x")
    (source / "cat" / "001.png").unlink()
    (source / "dog").chmod(0)
    with (
        without_privileges(),
        pytest.raises(DataError, match=r"/pets/dog cannot be listed: Permission.*Make it readable"),
    ):
        copy_tree(source, tmp_path / "out", "x")
    (source / "dog").chmod(0o400)
    with without_privileges(), pytest.raises(DataError, match=r"/pets/dog/00\d\.png cannot be read: Permission denied"):
        copy_tree(source, tmp_path / "out", "x")
    (source / "dog").chmod(0o700)
    archive = zipped(tmp_path / "z.zip", "a.png")
    archive.chmod(0)
    with without_privileges(), pytest.raises(DataError, match=r"/z\.zip cannot be read: Permission denied"):
        looks_like_archive(archive)


# Empty folders


def test_empty_folders_are_kept(tmp_path: Path) -> None:
    source = pets(tmp_path / "pets", each=1)
    (source / "owl" / "deeper").mkdir(parents=True)
    (source / ".git" / "empty").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as packed:
        for path in source.rglob("*"):
            packed.write(path, path.relative_to(source))
    with tarfile.open(tmp_path / "t.tar", "w") as packed_too:
        packed_too.add(source, ".")
    copy_tree(source, tmp_path / "copied", "x")
    for name in ("z.zip", "t.tar"):
        unpack(tmp_path / name, tmp_path / name.replace(".", "-"), "x")
    for folder in ("copied", "z-zip", "t-tar"):
        assert (tmp_path / folder / "owl" / "deeper").is_dir()
        assert not (tmp_path / folder / ".git").exists()
        assert files(tmp_path / folder) == ["cat/000.png", "dog/000.png"]


# Hostile archives


LIMITS = UnpackLimits(max_unpacked_gib=1.0, max_unpacked_ratio=100.0)


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def bombs(folder: Path) -> dict[str, Path]:
    """Archives of a few hundred kB that unpack to 128 MiB and more."""
    zeros = bytes(2**20)
    folder.mkdir()
    with zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(128):
            packed.writestr(f"{index}.bmp", zeros)
    tar_of(folder / "zeros.tar.gz", *((tarfile.TarInfo(f"{index}.bmp"), zeros) for index in range(128)))
    one = tarfile.TarInfo("one.bmp")
    links = []
    for index in range(200):
        link = tarfile.TarInfo(f"{index}.bmp")
        link.type, link.linkname = tarfile.LNKTYPE, "one.bmp"
        links.append((link, b""))
    tar_of(folder / "links.tar.gz", (one, zeros), *links)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["deflated.zip", "zeros.tar.gz", "links.tar.gz"])
def test_a_decompression_bomb_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = bombs(tmp_path / "bombs")[name]
    assert archive.stat().st_size < 2**18
    with pytest.raises(
        DataError,
        match=r"is refused: it unpacks to 6\d\.\d MiB or more, more than 100 times its own size \(\d+\.\d KiB\), which is the "
        r"limit data\.max_unpacked_ratio\. If you trust it, raise that setting in params\.yaml",
    ):
        unpack(archive, tmp_path / "out", "x", limits=LIMITS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"or more, above data\.max_unpacked_gib \(0\.01\)"):
        unpack(archive, tmp_path / "out", "x", limits=UnpackLimits(max_unpacked_gib=0.01))
    unpack(archive, tmp_path / "out", "x", limits=UnpackLimits(max_unpacked_ratio=1e6))
    assert len(files(tmp_path / "out")) >= 128


def test_pictures_pass_and_the_ratio_of_small_archives_is_not_limited(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "masks.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(30):
            packed.writestr(f"{index}.bmp", bytes(2**20))
    unpack(tmp_path / "masks.zip", tmp_path / "out", "x", limits=LIMITS)
    assert len(files(tmp_path / "out")) == 30


def test_very_many_empty_members_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "empty.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for index in range(20_002):
            packed.writestr(f"{index}.png", b"")
    with pytest.raises(DataError, match=r"empty\.zip is refused: 10001 of its first 10001 files are empty"):
        unpack(archive, tmp_path / "out", "x", limits=LIMITS)
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz") as packed_too:
        for index in range(20_002):
            packed_too.addfile(tarfile.TarInfo(f"{index}.png"))
    with pytest.raises(DataError, match=r"empty\.tar\.gz is refused"):
        unpack(tmp_path / "empty.tar.gz", tmp_path / "out", "x", limits=LIMITS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("claimed", [10, 2**31])
def test_a_zip_with_a_false_size_is_refused(tmp_path: Path, claimed: int) -> None:
    archive = zipped(tmp_path / "z.zip", "a.png", packing=zipfile.ZIP_DEFLATED)
    content = archive.read_bytes()
    size = len(png(0)).to_bytes(4, "little")
    start = content.index(b"PK\1\2") + 24
    assert content[start : start + 4] == size
    archive.write_bytes(content[:start] + claimed.to_bytes(4, "little") + content[start + 4 :])
    with pytest.raises(
        DataError, match=r"z\.zip(: a\.png cannot be copied: .*broken| is refused: it unpacks to 2\.0 GiB)"
    ):
        unpack(archive, tmp_path / "out", "x", limits=LIMITS)


def test_a_tar_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info.type, info.size = kind, 3 * 2**30
        archive = write(tmp_path / "t.tar", info.tobuf() + bytes(4096))
        assert is_archive(archive)
        with pytest.raises(
            DataError, match=r"t\.tar is refused: it has a header of 3\.0 GiB, and is broken or malicious"
        ):
            unpack(archive, tmp_path / "out", "x")


@pytest.mark.parametrize("before", [b"", bytes(tar("a.png")[:1024])], ids=["first member", "second member"])
def test_a_tar_whose_headers_would_fill_the_stack_is_refused(tmp_path: Path, before: bytes) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5
    archive = write(tmp_path / "t.tar", before + (info.tobuf() + b"x.png".ljust(512, b"\0")) * 3000)
    assert is_archive(archive)
    with pytest.raises(DataError, match=r"t\.tar is refused: it has more than 32 headers for one file"):
        unpack(archive, tmp_path / "out", "x", limits=LIMITS)


def test_a_path_in_a_tar_that_no_disk_holds_is_refused(tmp_path: Path) -> None:
    archive = write(tmp_path / "t.tar", bytes(tar("a/" * 5000 + "x.png")))
    with pytest.raises(DataError, match=r"t\.tar is refused: the path of a member has 10005 characters"):
        unpack(archive, tmp_path / "out", "x")


def test_many_members_with_long_names_are_unpacked(tmp_path: Path) -> None:
    names = [f"{'long' * 40}/{number}.png" for number in range(50)]
    unpack(write(tmp_path / "t.tar", bytes(tar(*names))), tmp_path / "out", "x")
    assert files(tmp_path / "out") == sorted(names)


def test_a_nested_archive_stays_packed(tmp_path: Path) -> None:
    inner = tarfile.TarInfo("inner.tar.gz")
    archive = tar_of(tmp_path / "outer.tar.gz", (inner, gzip.compress(bytes(2**24))))
    unpack(archive, tmp_path / "out", "x", limits=LIMITS)
    assert (tmp_path / "out" / "inner.tar.gz").stat().st_size < 2**16


def test_a_link_with_a_long_target_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, b"x" * 2**20)
    with pytest.raises(DataError, match=r"the link 'link\.png' in it has a target of 1\.0 MiB"):
        unpack(tmp_path / "z.zip", tmp_path / "out", "x")


def test_control_characters_in_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the name 'a\\nb/1\.png' contains a control character\. Rename it"):
        unpack(zipped(tmp_path / "z.zip", "a\nb/1.png"), tmp_path / "out", "x")


def test_shift_jis_names_in_a_tar_are_decoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "t.tar", "w", encoding="cp932", format=tarfile.GNU_FORMAT) as packed:
        for name in ("猫/写真.png", "犬/表.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(0))
            packed.addfile(info, io.BytesIO(png(0)))
    unpack(tmp_path / "t.tar", tmp_path / "out", "x")
    assert files(tmp_path / "out") == ["犬/表.png", "猫/写真.png"]
    assert "read as cp932" in caplog.text
