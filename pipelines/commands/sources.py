"""Two sources of pictures on the command line: what ``gantry fid`` and ``gantry evaluate`` share."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gan_core.errors import SettingsError, TrackingError
from gan_core.metrics.protocol import FEATURES

if TYPE_CHECKING:
    from gan_core.inference.generator import Generator
    from gan_core.metrics.inception import Extractor
    from gan_core.metrics.sources import Source
    from pipelines.settings.ingest import Side

DEFAULT_SAMPLES = 10_000
"""Maximum number of pictures of each side if one of them is a generator and --n is not given."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How to measure, as given on the command line."""

    features: str
    resize: Literal["tf1", "clean"]
    count: int | None
    split: str | None
    pairs: Literal["folders", "side-by-side"] | None
    condition_side: "Side | None"
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
    """The generator of ``fake``, which makes pictures from noise or translates; None if there is none."""
    count: int | None
    """Number of pictures of each side; None for all. The maximum number for translations."""
    extractor: "Extractor"
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    """Pictures left out of data that was prepared for a translating generator: file to reason, by folder or archive."""


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
        click.option(
            "--split",
            help="Split of the prepared data.  [default: train; test for translations, if there is one]",
        ),
        click.option(
            "--pairs",
            type=click.Choice(["folders", "side-by-side"]),
            help="For a generator trained on pairs and a folder or archive: where the pairs are, as ingest.pairs.  "
            "[default: folders]",
        ),
        click.option(
            "--condition-side",
            type=click.Choice(["first", "second"]),
            help="With pairs in a folder or archive: the folder or half to translate, as ingest.condition_side.  "
            "[default: first]",
        ),
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

    Pictures for a generator that translates are prepared in a temporary folder, until the current click context ends.

    Raises:
        SettingsError: bf16 without --unpublished, two generators of which one translates, or an option that neither source has
            a use for.
        TrackingError: one of them is neither a file or folder nor a registered generator.
        CheckpointError: a folder of checkpoints has none from which a generator can be loaded.
        DataError: one of them has no pictures, or pictures that the generator cannot translate.
    """
    if options.precision == "bf16" and not options.unpublished:
        raise SettingsError("--precision bf16 is not for published figures. To use it anyway, add --unpublished.")
    # Imported here: --help need not wait for torch.
    from gan_core.inference.generator import load_generator
    from gan_core.metrics.inception import load_inception
    from gan_core.precision import choose_device

    where = choose_device(options.device)
    with ExitStack() as registered:
        places = [_place(one, registered) for one in (a, b)]
        generators = [load_generator(place, str(where)) if _is_generator(place) else None for place in places]
    precision: Literal["fp32", "bf16"] = "bf16" if options.precision == "bf16" else "fp32"
    make_extractor = partial(load_inception, where, precision, int(options.features), options.resize)
    if any(generator is not None and generator.translates for generator in generators):
        if None not in generators:
            raise SettingsError(
                f"{a} and {b} are generators, and one of them translates pictures. Measure it on pictures: a folder, an "
                "archive or prepared data. To compare it with another generator, measure both on the same data."
            )
        at = generators.index(None)
        translator = generators[1 - at]
        assert translator is not None
        return _translations(translator, places[at], (a, b)[at], options, make_extractor)
    _check_unused(options)
    sources = [_source(place, made, options) for place, made in zip(places, generators, strict=True)]
    _check_options(options, sources)
    if generators[0] is not None:
        sources.reverse()
        generators.reverse()
    (real, fake), generator = sources, generators[1]
    if generators[0] is not None:
        real = _generated_real(generators[0], real.name, options)
    count = options.count
    if count is None and generator is not None:
        count = min(DEFAULT_SAMPLES, real.available() or DEFAULT_SAMPLES)
    return Sources(real=real, fake=fake, generator=generator, count=count, extractor=make_extractor())


def _translations(
    generator: "Generator", data: Path, named: str, options: MeasureOptions, make_extractor: "Callable[[], Extractor]"
) -> Sources:
    """The sources of a generator that translates: the split of the data, and its translations."""
    from gan_core.data import PreparedDataset
    from gan_core.families import ImageShape
    from gan_core.metrics.sources import DatasetSplit, Translations
    from gan_core.metrics.translated_data import check_translates

    left_out: dict[str, dict[str, str]] = {}
    if _is_prepared(data):
        _check_unused(options)
        if options.encoding:
            raise SettingsError(f"--encoding {options.encoding}: {named} is not an archive. Leave it out.")
        dataset = PreparedDataset(data)
    else:
        from pipelines.data.for_generator import prepare_for

        if options.encoding and data.is_dir():
            raise SettingsError(f"--encoding {options.encoding}: {named} is not an archive. Leave it out.")
        shape = ImageShape(**generator.info["shape"])
        if not shape.condition_channels or shape.derived:
            _check_unused(options)
        scratch = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="gantry-evaluate-"))
        click.echo(f"{named}: preparing the pictures for {generator.info['family']}", err=True)
        prepared = prepare_for(
            generator.info["family"],
            shape,
            data,
            Path(scratch),
            attributes=tuple(map(str, generator.info.get("attributes") or ())),
            pairs=options.pairs or "folders",
            condition_side=options.condition_side or "first",
            encoding=options.encoding,
        )
        dataset, left_out = prepared.dataset, {str(data): prepared.left_out}
        if prepared.duplicates:
            click.echo(f"{named}: {prepared.duplicates} pictures equal another one, and are left out", err=True)
    check_translates(generator, dataset.info)
    splits = {name for name, count in dataset.info.splits.items() if count}
    split = options.split or ("test" if "test" in splits else "train")
    real = DatasetSplit(dataset, split)
    fake = Translations(generator.translate, real, seed=options.seed, digest=generator.digest)
    count = min(options.count or DEFAULT_SAMPLES, real.available())
    return Sources(
        real=real, fake=fake, generator=generator, count=count, extractor=make_extractor(), left_out=left_out
    )


def _check_unused(options: MeasureOptions) -> None:
    """Raise SettingsError for options that say where pairs are, if nothing is prepared that needs them."""
    for name, value in (("--pairs", options.pairs), ("--condition-side", options.condition_side)):
        if value:
            raise SettingsError(
                f"{name} {value} is for a folder or archive of pairs, and for a generator trained on such. Leave it out."
            )


def _check_options(options: MeasureOptions, sources: "list[Source]") -> None:
    from gan_core.metrics.sources import DatasetSplit, PictureFolder

    if options.split not in (None, "train") and not any(isinstance(source, DatasetSplit) for source in sources):
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
    for path, left_out in sources.left_out.items():
        for name, why in left_out.items():
            click.echo(f"{path}: {name} cannot be used and is left out: {why}", err=True)
    paths = [source for source in both if isinstance(source, PictureFolder) and source.unreadable]
    unreadable = {str(source.path): dict(source.unreadable) for source in paths}
    return unreadable | {path: left_out for path, left_out in sources.left_out.items() if left_out}


def _place(named: str, registered: ExitStack) -> Path:
    """The file or folder ``named``, or the generator in its subfolder ``generator``; else the folder of the registered
    generator ``named``, while ``registered`` is open.
    """
    from gan_core.inference.description import DESCRIPTION
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    path = Path(named)
    if path.exists() and named:
        inner = path / "generator"  # as gantry sample takes it
        return inner if (inner / DESCRIPTION).is_file() and not (path / DESCRIPTION).is_file() else path
    try:
        return registered.enter_context(generator_folder(named, tracking_uri=project_tracking_uri(Path.cwd())))
    except TrackingError as error:
        raise TrackingError(f"'{named}' is neither a file or folder nor a registered generator: {error}") from error


def _source(path: Path, generator: "Generator | None", options: MeasureOptions) -> "Source":
    """The pictures at ``path``, or those that ``generator`` makes from noise."""
    from gan_core.data import PreparedDataset
    from gan_core.metrics.sources import DatasetSplit, PictureFolder, Samples

    if generator is not None:
        return Samples(generator.sample, seed=options.seed, digest=generator.digest, name=path.name)
    if _is_prepared(path):
        return DatasetSplit(PreparedDataset(path), options.split or "train")
    return PictureFolder(path, options.encoding)


def _generated_real(generator: "Generator", name: str, options: MeasureOptions) -> "Source":
    """The pictures of a generator that another one is compared with.

    With the seed of the other one, both would draw the same latents, and similar generators be closer than their pictures are.
    The seed decides which pictures are the real ones, so it is in their digest.
    """
    from gan_core.files import sha256_json
    from gan_core.metrics.sources import Samples
    from gan_core.randomness import derive_seed

    seed = derive_seed(options.seed, "real") % 2**31  # 31 bits, which every random generator accepts
    return Samples(generator.sample, seed=seed, digest=sha256_json([generator.digest, seed]), name=name)


def _is_generator(path: Path) -> bool:
    """Whether ``path`` is an exported generator, a checkpoint or a folder of checkpoints, as ``gantry sample`` takes them."""
    from gan_core.checkpoint import STATE, list_checkpoints
    from gan_core.inference.description import DESCRIPTION

    if _is_prepared(path) or not path.is_dir():
        return False
    if (path / DESCRIPTION).is_file() or (path / STATE).is_file():
        return True
    return any((found / STATE).is_file() for found in list_checkpoints(path))


def _is_prepared(path: Path) -> bool:
    """Whether ``path`` is prepared data. A ``dataset.json`` alone is not: StyleGAN's label file has the same name."""
    from gan_core.data import DATASET_FILE

    return (path / DATASET_FILE).is_file() and next(path.glob("*.parquet"), None) is not None
