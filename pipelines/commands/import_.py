"""``gantry import FILE``: convert networks of the public pix2pix or CycleGAN layout."""

import math
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
    "--discriminator",
    "discriminators",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A discriminator (netD), to go on training from the networks. For CycleGAN twice: D_A, then D_B.",
)
@click.option(
    "--size", default=256, show_default=True, type=click.IntRange(min=16), help="Side of the pictures, in pixels."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
def import_(files: tuple[Path, ...], layout: "Layout", discriminators: tuple[Path, ...], size: int, out: Path) -> None:
    """Convert weights of the public pix2pix and CycleGAN layout (netG, netD) to a generator, or to a start of training.

    FILES is one file for pix2pix (a U-Net), or two for CycleGAN (residual generators): A to B, then B to A. A single file for
    CycleGAN gives a generator that translates from A to B only. Only plain tensors are read; code in a file never runs.
    Networks that the family cannot represent exactly are refused by name. pix2pix is imported without dropout, which the files
    do not describe, and residual generators with reflection padding.

    With --discriminator, OUT has the folders generator and start, and train.start_from: OUT goes on training from them.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.files import atomic_write
    from gan_core.inference.generator import save_generator
    from gan_core.inference.public_layouts import import_networks
    from gan_core.training.start import save_imported_start

    if out.exists():
        raise SettingsError(f"--out {out} exists. Choose another name.")
    found = import_networks(files, layout=layout, size=size, discriminators=discriminators)
    if found.discriminators:
        with atomic_write(out) as temporary:
            temporary.mkdir()
            save_generator(temporary / "generator", family=found.family, extra=found.extra)
            save_imported_start(temporary / "start", found.family, found.extra)
    else:
        save_generator(out, family=found.family, extra=found.extra)
    count = 0
    for name, shape in found.sizes():
        number = math.prod(shape)
        count += number
        click.echo(f"{name:<32} {'x'.join(map(str, shape)):>18} {number:>12,}")
    click.echo(f"{count:,} parameters: {out}")
    if found.family.incomplete:
        click.echo("It translates from A to B only: the generator of the other direction was not given.")
    if found.discriminators:
        config = found.family.config
        settings = {name: getattr(config, name) for name in ("width", "depth", "blocks") if hasattr(config, name)}
        settings |= {"patch_width": config.patch_width, "patch_halvings": config.patch_halvings}
        said = ", ".join(f"{name}: {value}" for name, value in settings.items())
        click.echo(f"To train: set model.family to {layout}, in model {said}, and train.start_from to {out}.")
