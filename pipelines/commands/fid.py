"""``gantry fid A B``: measure the Fréchet Inception distance between two sets of pictures."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gan_core.errors import SettingsError, TrackingError
from gan_core.metrics.protocol import FEATURES

if TYPE_CHECKING:
    from gan_core.metrics.sources import Source

DEFAULT_SAMPLES = 10_000
"""Maximum number of pictures of each side if one of them is a generator and --n is not given."""


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--features",
    type=click.Choice([str(n) for n in FEATURES]),
    default="2048",
    help="Inception layer, by its number of features.",
)
@click.option(
    "--resize",
    type=click.Choice(["tf1", "clean"]),
    default="tf1",
    show_default=True,
    help="tf1: bilinear, as the network was published; clean: antialiased bicubic, as clean-fid.",
)
@click.option(
    "--n", "count", type=click.IntRange(min=2), help="Number of pictures to use of each side, a fixed random subset."
)
@click.option("--split", default="train", show_default=True, help="Split of a prepared dataset.")
@click.option("--seed", default=0, show_default=True, help="Seed of a generator's pictures.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures per batch. Changes the speed, not the FID.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option(
    "--unpublished", is_flag=True, help="With --precision bf16: confirm that the figure will not be published."
)
@click.option(
    "--encoding", metavar="NAME", help="Encoding of the file names in a zip that does not state it: cp932, gbk, ..."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figure and its protocol as JSON.")
def fid(
    a: str,
    b: str,
    features: str,
    resize: Literal["tf1", "clean"],
    count: int | None,
    split: str,
    seed: int,
    batch_size: int | None,
    device: str,
    precision: str,
    unpublished: bool,
    encoding: str | None,
    as_json: bool,
) -> None:
    """Print the Fréchet Inception distance between A and B.

    Each is a folder of pictures (of any size, in any subfolders), a zip of pictures, a prepared dataset, an exported generator,
    or the name of a registered one (NAME, NAME/VERSION, NAME@ALIAS). A is the real side, unless A is a generator: then B is.

    By default all pictures are used; a generator makes as many as the other side has, at most 10,000. Pictures that cannot be
    read are listed and left out, and the result says so. If more than 1 % cannot be read, the command fails.
    """
    if precision == "bf16" and not unpublished:
        raise SettingsError("--precision bf16 is not for published figures. To use it anyway, add --unpublished.")
    # Imported here: --help need not wait for torch.
    from gan_core.metrics.evaluate import fid as fid_of
    from gan_core.metrics.inception import load_inception
    from gan_core.metrics.sources import Samples
    from gan_core.precision import choose_device

    where = choose_device(device)
    with ExitStack() as registered:
        places = [_place(one, registered) for one in (a, b)]
        real, fake = (_source(place, split=split, seed=seed, device=str(where), encoding=encoding) for place in places)
    if isinstance(real, Samples):
        real, fake = fake, real
    if count is None and isinstance(fake, Samples):
        count = min(DEFAULT_SAMPLES, real.available() or DEFAULT_SAMPLES)
    extractor = load_inception(where, "bf16" if precision == "bf16" else "fp32", int(features), resize)
    figure = fid_of(
        real, fake, extractor=extractor, real_count=count, fake_count=count, batch_size=batch_size, progress=True
    )
    unreadable = _report_skipped(real, fake)
    if as_json:
        result = {"a": a, "b": b, **figure.as_dict(), **({"unreadable": unreadable} if unreadable else {})}
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"FID {figure.value:.4f}  ({figure.protocol.stamp})")


def _report_skipped(*sources: "Source") -> dict[str, dict[str, str]]:
    """Print which files were left out; returns the unreadable pictures with the reason, by folder or zip."""
    from gan_core.images.files import summarize_suffixes
    from gan_core.metrics.sources import PictureFolder

    for source in sources:
        if isinstance(source, PictureFolder) and source.files.others:
            click.echo(
                f"{source.path}: skipped {summarize_suffixes(source.files.others)} that are not pictures.", err=True
            )
        for name, why in source.unreadable.items():
            click.echo(f"{source.name}: {name} cannot be read and is left out: {why}", err=True)
    paths = [source for source in sources if isinstance(source, PictureFolder) and source.unreadable]
    return {str(source.path): dict(source.unreadable) for source in paths}


def _place(named: str, registered: ExitStack) -> Path:
    """The file or folder ``named``; else the folder of the registered generator ``named``, while ``registered`` is open."""
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    path = Path(named)
    if path.exists() and named:
        return path
    try:
        return registered.enter_context(generator_folder(named, tracking_uri=project_tracking_uri(Path.cwd())))
    except TrackingError as error:
        raise TrackingError(f"'{named}' is neither a file or folder nor a registered generator: {error}") from error


def _source(path: Path, *, split: str, seed: int, device: str, encoding: str | None) -> "Source":
    """The pictures at ``path``. A ``dataset.json`` alone is not a prepared dataset: StyleGAN's label file has the same name.

    Raises:
        SettingsError: it is a generator that translates pictures.
    """
    from gan_core.data import DATASET_FILE, PreparedDataset
    from gan_core.inference.generator import DESCRIPTION, load_generator
    from gan_core.metrics.sources import DatasetSplit, PictureFolder, Samples

    if (path / DESCRIPTION).is_file():
        generator = load_generator(path, device)
        if generator.translates:
            raise SettingsError(
                f"{path} translates pictures and makes none from noise. The evaluate stage measures translations; or translate "
                "some pictures with gantry translate and give the folder of the results."
            )
        return Samples(generator.sample, seed=seed, digest=generator.digest, name=path.name)
    if (path / DATASET_FILE).is_file() and next(path.glob("*.parquet"), None) is not None:
        return DatasetSplit(PreparedDataset(path), split)
    return PictureFolder(path, encoding)
