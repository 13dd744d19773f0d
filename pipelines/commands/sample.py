"""``gantry sample MODEL``: generate pictures."""

from pathlib import Path

import click

from gan_core.errors import SettingsError


@click.command()
@click.argument("model")
@click.option("--n", "count", default=64, show_default=True, type=click.IntRange(min=1), help="Number of pictures.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--label", help="Class, by name or index, for a class-conditional generator. Default: all classes.")
@click.option(
    "--truncation", type=float, help="Trade variety for fidelity. The meaning of the value depends on the family."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png, a .gif, or a folder for single PNGs.  [default: samples.png]",
)
@click.option("--frames", type=click.IntRange(min=2), help="With a .gif: frames from each picture to the next.")
@click.option(
    "--mix",
    is_flag=True,
    help="An n by n grid of mixed styles (stylegan2): coarse styles from the column, fine ones from the row.",
)
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
    """Generate pictures.

    MODEL is a registered model (NAME, NAME/VERSION, NAME@ALIAS), the id of an MLflow run, or the folder of an exported
    generator or of checkpoints. The same seed gives the same pictures on every machine, up to rounding. If OUT ends in .png, it
    is a contact sheet; if in .gif, a walk through the latent space from picture to picture; otherwise a folder of single PNGs.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.images.grid import save_sheet
    from gan_core.inference.generator import load_generator
    from gan_core.inference.provenance import provenance
    from gan_core.inference.sample import (
        check_style_mixing,
        label_index,
        output_kind,
        save_contact_sheet,
        save_pictures,
        save_walk,
    )
    from gan_core.precision import choose_device
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    out = out or Path("samples.png")
    kind = output_kind(out, seed)
    if frames and kind != ".gif":
        raise SettingsError(f"--frames is for animations: --out must end in .gif, not '{out.name}'.")
    if mix:
        check_style_mixing(out, kind, count, truncation)
    with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
        generator = load_generator(folder, choose_device(device))
    chosen = label_index(generator, label)
    if mix:
        chunk = provenance(generator.digest, seed=seed, count=count, label=chosen, mix=True)
        save_sheet(out, generator.mix(count, seed, chosen), chunk=chunk)
        click.echo(f"Styles of {count} by {count} pictures of seed {seed}, mixed: {out}")
        return
    if kind == ".gif":
        save_walk(generator, out, count, seed, chosen, truncation, frames or 12)
    elif kind == ".png":
        save_contact_sheet(generator, out, count, seed, chosen, truncation)
    else:
        save_pictures(generator, out, count, seed, chosen, truncation)
    click.echo(f"{count} pictures of seed {seed} from generator {generator.digest[:12]}: {out}")
