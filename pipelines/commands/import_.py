"""``gantry import FILE``: convert a generator of the public pix2pix or CycleGAN layout."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gan_core.errors import SettingsError

if TYPE_CHECKING:
    from gan_core.inference.public_layouts import Layout


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--layout", type=click.Choice(["pix2pix", "cyclegan"]), required=True)
@click.option(
    "--size", default=256, show_default=True, type=click.IntRange(min=16), help="Side of the pictures, in pixels."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def import_(files: tuple[Path, ...], layout: "Layout", size: int, out: Path) -> None:
    """Convert weights of the public pix2pix and CycleGAN layout (netG) into a generator.

    FILES is one file for pix2pix (a U-Net), or two for CycleGAN (residual generators): A to B, then B to A. Only plain tensors
    are read; code in a file never runs. Networks that the family cannot represent exactly are refused by name. pix2pix is
    imported without dropout, which the files do not describe, and residual generators with reflection padding.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.inference.public_layouts import import_generators

    if out.exists():
        raise SettingsError(f"--out {out} exists. Choose another name.")
    table = import_generators(files, out, layout=layout, size=size)
    count = 0
    for name, shape in table:
        number = 1
        for side in shape:
            number *= side
        count += number
        click.echo(f"{name:<32} {'x'.join(map(str, shape)):>18} {number:>12,}")
    click.echo(f"{count:,} parameters: {out}")
