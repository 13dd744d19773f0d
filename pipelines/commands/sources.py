"""Two sources of pictures on the command line: what ``gantry fid`` and ``gantry evaluate`` share."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gan_core.errors import SettingsError, TrackingError
from gan_core.metrics.protocol import FEATURES

if TYPE_CHECKING:
    from gan_core.inference.generator import Generator
    from gan_core.metrics.inception import Extractor
    from gan_core.metrics.sources import Source

DEFAULT_SAMPLES = 10_000
"""Maximum number of pictures of each side if one of them is a generator and --n is not given."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How to measure, as given on the command line."""

    features: str
    resize: Literal["tf1", "clean"]
    count: int | None
    split: str
    seed: int
    batch_size: int | None
    device: str
    precision: str
    unpublished: bool
    encoding: str | None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Two sources to compare, and what measures them."""

    real: "Source"
    fake: "Source"
    generator: "Generator | None"
    """The generator of ``fake``; None if it is not one."""
    count: int | None
    """Number of pictures of each side; None for all."""
    extractor: "Extractor"


def measure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that adds the arguments A and B and the options of :class:`MeasureOptions`."""
    layers = click.Choice([str(n) for n in FEATURES])
    options = [
        click.argument("a"),
        click.argument("b"),
        click.option("--features", type=layers, default="2048", help="Inception layer, by its number of features."),
        click.option(
            "--resize",
            type=click.Choice(["tf1", "clean"]),
            default="tf1",
            show_default=True,
            help="tf1: bilinear, as the network was published; clean: antialiased bicubic, as clean-fid.",
        ),
        click.option(
            "--n",
            "count",
            type=click.IntRange(min=2),
            help="Number of pictures to use of each side, a fixed random subset.",
        ),
        click.option("--split", default="train", show_default=True, help="Split of a prepared dataset."),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of a generator's pictures."
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=1), help="Pictures per batch. Changes the speed, not the figures."
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
        click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True),
        click.option(
            "--unpublished", is_flag=True, help="With --precision bf16: confirm that the figure will not be published."
        ),
        click.option(
            "--encoding",
            metavar="NAME",
            help="Encoding of the file names in a zip that does not state it: cp932, gbk, ...",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def open_sources(a: str, b: str, options: MeasureOptions) -> Sources:
    """The sources that ``a`` and ``b`` name. The real side is A, unless A is a generator.

    Raises:
        SettingsError: bf16 without --unpublished, a generator that translates pictures, or an option that neither source has a
            use for.
        TrackingError: one of them is neither a file or folder nor a registered generator.
        DataError: one of them has no pictures.
    """
    if options.precision == "bf16" and not options.unpublished:
        raise SettingsError("--precision bf16 is not for published figures. To use it anyway, add --unpublished.")
    # Imported here: --help need not wait for torch.
    from gan_core.metrics.inception import load_inception
    from gan_core.precision import choose_device

    where = choose_device(options.device)
    with ExitStack() as registered:
        places = [_place(one, registered) for one in (a, b)]
        opened = [_source(place, options, str(where)) for place in places]
    _check_options(options, [source for source, _ in opened])
    if opened[0][1] is not None:
        opened.reverse()
    (real, _), (fake, generator) = opened
    count = options.count
    if count is None and generator is not None:
        count = min(DEFAULT_SAMPLES, real.available() or DEFAULT_SAMPLES)
    precision: Literal["fp32", "bf16"] = "bf16" if options.precision == "bf16" else "fp32"
    extractor = load_inception(where, precision, int(options.features), options.resize)
    return Sources(real=real, fake=fake, generator=generator, count=count, extractor=extractor)


def _check_options(options: MeasureOptions, sources: "list[Source]") -> None:
    from gan_core.metrics.sources import DatasetSplit, PictureFolder

    if options.split != "train" and not any(isinstance(source, DatasetSplit) for source in sources):
        raise SettingsError(f"--split {options.split}: neither A nor B is a prepared dataset. Leave it out.")
    if options.encoding and not any(isinstance(source, PictureFolder) and source.path.is_file() for source in sources):
        raise SettingsError(f"--encoding {options.encoding}: neither A nor B is a zip. Leave it out.")


def report_skipped(sources: Sources) -> dict[str, dict[str, str]]:
    """Print which files were left out; returns the unreadable pictures with the reason, by folder or zip."""
    from gan_core.images.files import summarize_suffixes
    from gan_core.metrics.sources import PictureFolder

    both = (sources.real, sources.fake)
    for source in both:
        if isinstance(source, PictureFolder) and source.files.others:
            click.echo(f"{source.path}: not pictures, so skipped: {summarize_suffixes(source.files.others)}", err=True)
        for name, why in source.unreadable.items():
            click.echo(f"{source.name}: {name} cannot be read and is left out: {why}", err=True)
    paths = [source for source in both if isinstance(source, PictureFolder) and source.unreadable]
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


def _source(path: Path, options: MeasureOptions, device: str) -> "tuple[Source, Generator | None]":
    """The pictures at ``path``, and the generator that makes them, if it is one.

    A ``dataset.json`` alone is not a prepared dataset: StyleGAN's label file has the same name.

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
        samples = Samples(generator.sample, seed=options.seed, digest=generator.digest, name=path.name)
        return samples, generator
    if (path / DATASET_FILE).is_file() and next(path.glob("*.parquet"), None) is not None:
        return DatasetSplit(PreparedDataset(path), options.split), None
    return PictureFolder(path, options.encoding), None
