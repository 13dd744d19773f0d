"""``gantry project MODEL PICTURE``: project a real picture into a generator's style space."""

from pathlib import Path

import click

from gan_core.errors import DataError, SettingsError
from gan_core.files import atomic_write, find_obstacle, same_file


@click.command()
@click.argument("model")
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--steps", default=400, show_default=True, type=click.IntRange(min=1), help="Number of optimisation steps."
)
@click.option("--label", help="Class of PICTURE, by name or index, if the generator is class-conditional.")
@click.option("--out", default=Path("projection.png"), show_default=True, type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def project(model: str, picture: Path, steps: int, label: str | None, out: Path, device: str) -> None:
    """Find the styles with which a stylegan2 generator comes closest to PICTURE.

    Name MODEL as for gantry sample. PICTURE is cropped and resized to the generator's size. OUT is a .png that shows
    PICTURE beside the closest picture. The styles are saved under the same name as .safetensors.
    """
    # Imported here: --help need not wait for torch.
    import torch
    from tqdm import tqdm

    from gan_core.checkpoint import write_tensors
    from gan_core.images.grid import save_sheet
    from gan_core.images.pictures import PictureError
    from gan_core.images.sandbox import prepare
    from gan_core.inference.generator import load_generator
    from gan_core.inference.sample import label_index
    from gan_core.precision import choose_device
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    table = out.with_suffix(".safetensors")
    _check_places(picture, out, table)
    with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
        generator = load_generator(folder, choose_device(device))
    shape = generator.info["shape"]
    size = (shape["height"], shape["width"])
    try:
        pixels = prepare(picture.read_bytes(), size=size, channels=shape["channels"], mode="crop")
    except PictureError as error:
        raise DataError(f"PICTURE {picture} cannot be read as a picture ({error}). Choose another file.") from error
    target = torch.from_numpy(pixels.copy())
    index = label_index(generator, label)
    with tqdm(total=steps, unit="step", desc="project") as bar:

        def show(_: int) -> None:
            bar.update()

        found = generator.project(target, steps=steps, label=index, each=show)
    with atomic_write(table) as temporary:
        write_tensors(temporary, {"styles": found.styles})
        # Inside the block, so that a full disk leaves both files as they were.
        save_sheet(out, torch.stack([target, found.picture]))
    click.echo(
        f"{found.distance:.1f} grey levels from {picture} (with the mean style: {found.distance_of_mean:.1f}): {out}, "
        f"styles in {table}"
    )


def _check_places(picture: Path, *outs: Path) -> None:
    """Raise SettingsError unless all of ``outs`` can be written, the first is a .png, and none is ``picture``."""
    if outs[0].suffix.lower() != ".png":
        raise SettingsError(f"--out {outs[0]}: the file is a PNG, so its name must end in .png.")
    for out in outs:
        if same_file(out, picture):
            raise SettingsError(f"--out: {out} is PICTURE itself and would be overwritten. Choose another name.")
        found = find_obstacle(out)
        if found:
            raise SettingsError(f"--out: {out} cannot be written, {found}. Choose another name.")
