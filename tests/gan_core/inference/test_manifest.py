"""The manifest of a folder detects every change of its files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gan_core.errors import CheckpointError
from gan_core.inference.manifest import MANIFEST, check_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them in a subfolder."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("a")
    (tmp_path / "other").write_text("b")
    return tmp_path


def test_an_unchanged_folder_is_accepted(folder: Path) -> None:
    digest = write_manifest(folder)
    check_manifest(folder, digest)
    check_manifest(folder)
    assert write_manifest(folder) == digest


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda f: (f / "below" / "file").write_text("c"), "below/file was changed"),
    "removed": (lambda f: (f / "other").unlink(), "other is missing"),
    "added": (lambda f: (f / "below" / "more.py").write_text(""), r"below/more\.py was added"),
    "a link added": (lambda f: (f / "link").symlink_to("/etc/passwd"), "link was added"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "manifest changed": (lambda f: (f / MANIFEST).write_text('{"files": {}}'), "differs from the one in the registry"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_changed_files_are_named(folder: Path, harm: str) -> None:
    digest = write_manifest(folder)
    damage, said = HARMS[harm]
    damage(folder)
    with pytest.raises(CheckpointError, match=rf"{said}.*The folder differs from what was registered"):
        check_manifest(folder, digest)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 5}', "[" * 100_000, '{"files": null}'])
def test_an_invalid_manifest_is_named(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=f"{MANIFEST} is damaged"):
        check_manifest(folder)


def test_a_file_outside_the_folder_is_not_read(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": {"../../etc/passwd": "0"}}')
    with pytest.raises(CheckpointError, match="was added|is missing"):
        check_manifest(folder)


def test_files_that_python_and_mlflow_add_are_ignored(folder: Path) -> None:
    digest = write_manifest(folder)
    (folder / "below" / "__pycache__").mkdir()
    (folder / "below" / "__pycache__" / "file.pyc").write_bytes(b"")
    (folder / "registered_model_meta").write_text("")
    check_manifest(folder, digest)
