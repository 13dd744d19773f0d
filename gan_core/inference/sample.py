"""Pictures of a generator as files: a contact sheet, single PNGs, a GIF, a table of mixed styles."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gan_core.errors import SettingsError
from gan_core.files import obstacle, replacing
from gan_core.images.files import has_picture_suffix
from gan_core.images.grid import contact_sheet, save_sheet
from gan_core.inference.generator import Generator

CHUNK = 256
FRAME_MS = 50
MIXED = 16
"""Pictures along a side of a table of mixed styles, at most."""


def _stem(seed: int) -> str:
    """How the names of single pictures of ``seed`` begin."""
    return f"seed{seed:04d}"


def output_kind(out: Path, seed: int) -> str:
    """What is written at ``out``: ``.png``, ``.gif``, or with an empty word a folder.

    Raises:
        SettingsError: it is another kind of picture by its name, or something is in its place.
    """
    kind = out.suffix.lower() if out.suffix.lower() in (".png", ".gif") else ""
    if not kind and has_picture_suffix(out) and not out.is_dir():
        raise SettingsError(f"--out {out}: one picture is a .png or a .gif; name one of these, or a folder.")
    found = obstacle(out, folder=not kind)
    if not (found or kind) and any(out.glob(f"{_stem(seed)}-*.png")):
        found = f"pictures of seed {seed} lie there already, and those of another model or label have the same names"
    if found:
        raise SettingsError(f"--out {out}: {found}. Choose another name.")
    return kind


def check_mix(out: Path, kind: str, count: int, truncation: float | None) -> None:
    """Raise SettingsError for a table of mixed styles that cannot be."""
    if kind != ".png":
        raise SettingsError(f"--mix makes one table: let --out end in .png, not '{out.name}'.")
    if count > MIXED:
        raise SettingsError(f"--n {count}: a table of mixed styles has --n squared pictures; ask for {MIXED} at most.")
    if truncation is not None:
        raise SettingsError(f"--truncation {truncation}: styles are mixed as they are; leave it out with --mix.")


def label_index(generator: Generator, label: str | None) -> int | None:
    """The class index that ``label`` (a name or a number) means for ``generator``; raises SettingsError naming the classes."""
    if label is None:
        return None
    names = [str(name) for name in generator.info.get("classes", [])]
    if label in names:
        return names.index(label)
    if label.isdigit() and int(label) < len(names):
        return int(label)
    known = ", ".join(f"{name} ({index})" for index, name in enumerate(names)) or "no classes"
    raise SettingsError(f"--label {label}: the generator knows {known}.")


def save_pictures(
    generator: Generator, folder: Path, count: int, seed: int, label: int | None, truncation: float | None
) -> None:
    """Write ``count`` pictures of ``seed`` as single PNGs into ``folder``."""
    index = 0
    for pictures in _draw(generator, count, seed, label, truncation):
        for picture in pictures:
            with replacing(folder / f"{_stem(seed)}-{index:06d}.png") as temporary:
                contact_sheet(picture[None], gap=0, scale=1).save(temporary, format="PNG")
            index += 1


def save_contact_sheet(
    generator: Generator, path: Path, count: int, seed: int, label: int | None, truncation: float | None
) -> None:
    """Write ``count`` pictures of ``seed`` as one PNG."""
    save_sheet(path, torch.cat(list(_draw(generator, count, seed, label, truncation))))


def _draw(generator: Generator, count: int, seed: int, label: int | None, truncation: float | None) -> Iterator[Tensor]:
    with tqdm(total=count, unit="picture", desc="sample", disable=count <= CHUNK) as bar:
        for first in range(0, count, CHUNK):
            part = generator.sample(min(CHUNK, count - first), seed, label, truncation, first=first)
            bar.update(len(part))
            yield part


def save_walk(
    generator: Generator, out: Path, count: int, seed: int, label: int | None, truncation: float | None, frames: int
) -> None:
    """Write a GIF that goes from each of ``count`` pictures to the next and from the last to the first."""
    pictures = generator.walk(count, seed, label, truncation, frames=frames)
    first, *rest = [contact_sheet(picture[None], gap=0).convert("RGB") for picture in pictures]
    with replacing(out) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
