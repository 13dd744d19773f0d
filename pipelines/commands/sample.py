"""``gantry sample MODEL``: pictures of a generator, as a contact sheet, single PNGs or a moving interpolation."""

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor
from tqdm import tqdm

from gan_core.errors import SettingsError
from gan_core.files import obstacle, replacing
from gan_core.images.files import has_picture_suffix
from gan_core.images.grid import contact_sheet, save_sheet
from gan_core.inference.generator import Generator, load_generator
from gan_core.precision import choose_device
from pipelines.registry.find import generator_folder
from pipelines.settings.tracking_uri import project_tracking_uri

CHUNK = 256
FRAME_MS = 50
MIXED = 16
"""Pictures along a side of a table of mixed styles, at most."""


@click.command()
@click.argument("model")
@click.option("--n", "count", default=64, show_default=True, type=click.IntRange(min=1), help="How many pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--label", help="Class, by name or index, of a generator that takes one; all classes by default.")
@click.option("--truncation", type=float, help="Less variety for more fidelity; what it bounds is the family's affair.")
@click.option("--out", type=click.Path(path_type=Path), help="A .png or .gif, or a folder for single PNGs.")
@click.option("--frames", type=click.IntRange(min=2), help="With a .gif: frames from each picture to the next.")
@click.option("--mix", is_flag=True, help="A table of n by n mixed styles (stylegan2), columns' coarse, rows' fine.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def sample(
    model: str,
    count: int,
    seed: int,
    label: str | None,
    truncation: float | None,
    out: Path | None,
    frames: int | None,
    mix: bool,
    device: str,
) -> None:
    """Draw pictures from a generator.

    MODEL is a registered model (NAME, NAME/VERSION, NAME@ALIAS), the id of an MLflow run, or the folder of an exported
    generator or of checkpoints. The same seed gives the same pictures everywhere. OUT ending in .png is a contact sheet, in
    .gif a walk through the latent space from picture to picture, anything else a folder of single PNGs.
    """
    out = out or Path("samples.png")
    kind = _kind(out, seed)
    if frames and kind != ".gif":
        raise SettingsError(f"--frames is for a moving picture: let --out end in .gif, not '{out.name}'.")
    if mix:
        _check_mix(out, kind, count, truncation)
    with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
        generator = load_generator(folder, choose_device(device))
    chosen = label_index(generator, label)
    if mix:
        save_sheet(out, generator.mix(count, seed, chosen))
        click.echo(f"Styles of {count} by {count} pictures of seed {seed}, mixed: {out}")
        return
    if kind == ".gif":
        _walk(generator, out, count, seed, chosen, truncation, frames or 12)
    elif kind == ".png":
        save_sheet(out, torch.cat(list(_draw(generator, count, seed, chosen, truncation))))
    else:
        index = 0
        for pictures in _draw(generator, count, seed, chosen, truncation):
            for picture in pictures:
                with replacing(out / f"{_stem(seed)}-{index:06d}.png") as temporary:
                    contact_sheet(picture[None], gap=0, scale=1).save(temporary, format="PNG")
                index += 1
    click.echo(f"{count} pictures of seed {seed} from generator {generator.digest[:12]}: {out}")


def _stem(seed: int) -> str:
    """How the names of single pictures of ``seed`` begin."""
    return f"seed{seed:04d}"


def _kind(out: Path, seed: int) -> str:
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


def _check_mix(out: Path, kind: str, count: int, truncation: float | None) -> None:
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


def _draw(generator: Generator, count: int, seed: int, label: int | None, truncation: float | None) -> Iterator[Tensor]:
    with tqdm(total=count, unit="picture", desc="sample", disable=count <= CHUNK) as bar:
        for first in range(0, count, CHUNK):
            part = generator.sample(min(CHUNK, count - first), seed, label, truncation, first=first)
            bar.update(len(part))
            yield part


def _walk(
    generator: Generator, out: Path, count: int, seed: int, label: int | None, truncation: float | None, frames: int
) -> None:
    """Write a GIF that goes from each of ``count`` pictures to the next and from the last to the first."""
    pictures = generator.walk(count, seed, label, truncation, frames=frames)
    first, *rest = [contact_sheet(picture[None], gap=0).convert("RGB") for picture in pictures]
    with replacing(out) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
