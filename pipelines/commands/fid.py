"""``gantry fid A B``: measure the Fréchet Inception distance between two sets of pictures."""

import json
from typing import Any

import click

from pipelines.commands.sources import MeasureOptions, measure_options, open_sources, report_skipped


@click.command()
@measure_options
@click.option("--json", "as_json", is_flag=True, help="Print the figure and its protocol as JSON.")
def fid(a: str, b: str, as_json: bool, **options: Any) -> None:
    """Print the Fréchet Inception distance between A and B.

    Each is a folder of pictures (of any size, in any subfolders), a zip of pictures, a prepared dataset, or a generator, named
    as for gantry sample. A is the real side, unless A is a generator: then B is.

    For a generator that translates, the other side is prepared data, or a folder or archive in one of its layouts; the FID is
    that of its translations, or the mean over their directions. See gantry evaluate.

    By default all pictures are used; a generator makes as many as the other side has, at most 10,000. Pictures that cannot be
    read are listed and left out, and the result says so. If more than one and more than 1 % cannot be read, the command fails.

    For all other figures, see gantry evaluate.
    """
    sources = open_sources(a, b, MeasureOptions(**options))
    # Imported here: --help need not wait for torch.
    from gan_core.metrics.two_sources import fid_of_sources

    figure = fid_of_sources(
        sources.real,
        sources.fake,
        generator=sources.generator,
        extractor=sources.extractor,
        count=sources.count,
        batch_size=options["batch_size"],
        progress=True,
    )
    unreadable = report_skipped(sources)
    if as_json:
        result = {"a": a, "b": b, **figure.as_dict(), **({"unreadable": unreadable} if unreadable else {})}
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"FID {figure.value:.4f}  ({figure.protocol.stamp})")
