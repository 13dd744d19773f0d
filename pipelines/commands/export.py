"""``gantry export MODEL``: write a generator as one file for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gan_core.errors import SettingsError
from gan_core.files import find_obstacle

if TYPE_CHECKING:
    from gan_core.inference.export import Format


@click.command()
@click.argument("model")
@click.option("--format", "form", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The file.  [default: generator.onnx or generator.pt2]",
)
@click.option(
    "--target",
    help="Domain to translate to, for a generator with a network for each direction (cyclegan). Default: the second domain.",
)
@click.option("--replace", is_flag=True, help="Overwrite an existing file.")
def export(model: str, form: "Format", out: Path | None, target: str | None, replace: bool) -> None:
    """Write a generator as one file that needs no code of Gantry.

    Name MODEL as for gantry sample. With --format onnx, the file runs in ONNX Runtime and others; this needs the extra
    onnx (pip install 'gantry-gan[onnx]'). With --format torch, it is a program for torch.export.load.

    The inputs are named latent, label, truncation, picture, target and noise, as far as the family has them. The number of
    pictures is free; their size is the training size. Pictures are float32 from 0 to 1. The file's metadata describes each
    input and names the version and the digest of the generator. Its pictures are compared with the generator's before the
    file appears.
    """
    # Imported here: --help need not wait for torch.
    import gan_core
    from gan_core.inference.export import SUFFIXES, export_generator
    from gan_core.inference.generator import load_generator
    from pipelines.registry.find import find_model
    from pipelines.settings.tracking_uri import project_tracking_uri

    out = out or Path(f"generator{SUFFIXES[form]}")
    _check_out(out, SUFFIXES[form], replace)
    with find_model(model, tracking_uri=project_tracking_uri(Path.cwd())) as found:
        generator = load_generator(found.folder)
    version = {"gantry": gan_core.__version__, **({"model": found.version} if found.version else {})}
    exported = export_generator(generator, out, format=form, target=target, version=version)
    inputs = ", ".join(exported.inputs)
    size = out.stat().st_size / 1e6
    click.echo(f"{found.version or model} as {form} ({inputs} -> image), {size:.1f} MB: {out}")
    click.echo(
        f"Its pictures differ from those of generator {generator.digest[:12]} by at most {exported.difference:.1g}, at values "
        "from 0 to 1."
    )


def _check_out(out: Path, suffix: str, replace: bool) -> None:
    """Raise SettingsError unless ``out`` can be written."""
    if out.suffix.lower() != suffix:
        raise SettingsError(f"--out {out}: the name must end in {suffix}.")
    if out.exists() and not out.is_dir() and not replace:
        raise SettingsError(f"--out {out} exists. Choose another name, or add --replace.")
    if found := find_obstacle(out):
        raise SettingsError(f"--out {out} cannot be written, {found}. Choose another name.")
