"""Write generated pictures to files: a contact sheet, single PNGs, a GIF, or a table of mixed styles."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gan_core.errors import SettingsError
from gan_core.files import atomic_write, find_obstacle
from gan_core.images.files import has_picture_suffix
from gan_core.images.grid import contact_sheet, save_sheet
from gan_core.images.pictures import as_picture, to_array
from gan_core.inference.generator import Generator
from gan_core.inference.provenance import provenance

CHUNK = 256
FRAME_MS = 50
MAX_MIXED = 16
"""Maximum number of rows and columns in a table of mixed styles."""


def _stem(seed: int) -> str:
    """Prefix of the file names of single pictures of ``seed``."""
    return f"seed{seed:04d}"


def output_kind(out: Path, seed: int) -> str:
    """Kind of output at ``out``: ``.png``, ``.gif``, or an empty string for a folder.

    Raises:
        SettingsError: ``out`` has the suffix of a different picture format, or already exists.
    """
    kind = out.suffix.lower() if out.suffix.lower() in (".png", ".gif") else ""
    if not kind and has_picture_suffix(out) and not out.is_dir():
        raise SettingsError(f"--out {out}: must end in .png or .gif, or be a folder.")
    found = find_obstacle(out, folder=not kind)
    if not (found or kind) and any(out.glob(f"{_stem(seed)}-*.png")):
        found = (
            f"already has pictures of seed {seed}, and those of a different model or label would have the same names"
        )
    if found:
        raise SettingsError(f"--out {out}: {found}. Choose another name.")
    return kind


def check_style_mixing(out: Path, kind: str, count: int, truncation: float | None) -> None:
    """Raise SettingsError if the options do not fit a table of mixed styles."""
    if kind != ".png":
        raise SettingsError(f"--mix writes a single picture: --out must end in .png, got '{out.name}'.")
    if count > MAX_MIXED:
        raise SettingsError(f"--n {count}: must be at most {MAX_MIXED} with --mix, which makes --n x --n pictures.")
    if truncation is not None:
        raise SettingsError(f"--truncation {truncation}: cannot be combined with --mix. Leave it out.")


def label_index(generator: Generator, label: str | None) -> int | None:
    """Index of the class ``label``, a name or a number; raises SettingsError if it is unknown."""
    if label is None:
        return None
    names = [str(name) for name in generator.info.get("classes", [])]
    if label in names:
        return names.index(label)
    numbers = [str(index) for index in range(len(names))]
    if label in numbers:  # Python refuses to read numbers of thousands of digits
        return numbers.index(label)
    if not names:
        raise SettingsError(f"--label {label}: the generator is not class-conditional. Leave out the label.")
    known = ", ".join(f"{name} ({index})" for index, name in enumerate(names))
    raise SettingsError(f"--label {label}: unknown class. Choose one of {known}.")


def save_pictures(
    generator: Generator, folder: Path, count: int, seed: int, label: int | None, truncation: float | None
) -> None:
    """Write ``count`` pictures of ``seed`` to ``folder`` as single PNG files."""
    index = 0
    for pictures in _draw(generator, count, seed, label, truncation):
        for picture in pictures:
            chunk = provenance(generator.digest, seed=seed, index=index, label=label, truncation=truncation)
            with atomic_write(folder / f"{_stem(seed)}-{index:06d}.png") as temporary:
                contact_sheet(picture[None], gap=0, scale=1).save(temporary, format="PNG", pnginfo=chunk)
            index += 1


def save_contact_sheet(
    generator: Generator, path: Path, count: int, seed: int, label: int | None, truncation: float | None
) -> None:
    """Write ``count`` pictures of ``seed`` as a single PNG file."""
    chunk = provenance(generator.digest, seed=seed, count=count, label=label, truncation=truncation)
    save_sheet(path, torch.cat(list(_draw(generator, count, seed, label, truncation))), chunk=chunk)


def _draw(generator: Generator, count: int, seed: int, label: int | None, truncation: float | None) -> Iterator[Tensor]:
    with tqdm(total=count, unit="picture", desc="sample", disable=count <= CHUNK) as bar:
        for first in range(0, count, CHUNK):
            part = generator.sample(min(CHUNK, count - first), seed, label, truncation, first=first)
            bar.update(len(part))
            yield part


def save_walk(
    generator: Generator, out: Path, count: int, seed: int, label: int | None, truncation: float | None, frames: int
) -> None:
    """Write a GIF that interpolates from each of ``count`` pictures to the next, and from the last to the first.

    Transparent pictures are composited on white: a GIF has no partial transparency.
    """
    pictures = generator.walk(count, seed, label, truncation, frames=frames)
    opaque = (torch.from_numpy(to_array(as_picture(picture.numpy(), 3))) for picture in pictures)
    first, *rest = [contact_sheet(picture[None], gap=0) for picture in opaque]
    with atomic_write(out) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
