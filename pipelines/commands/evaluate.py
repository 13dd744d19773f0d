"""``gantry evaluate A B``: measure every figure of two sets of pictures."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.sources import MeasureOptions, Sources, measure_options, open_sources, report_skipped

if TYPE_CHECKING:
    from gan_core.metrics.assess import Assessment

COLUMNS = (
    *("figure", "direction", "value", "low", "high", "baseline", "baseline_is", "better"),
    *("real_count", "fake_count", "protocol_digest", "protocol"),
)
"""Columns of --csv. Numbers have all their digits."""


class _Truncations(click.ParamType):
    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Numbers separated by commas, each above 0, in ascending order."""
        try:
            found = tuple(sorted({float(part) for part in str(value).split(",")}))
        except ValueError:
            found = ()
        if not found or not all(0 < one < float("inf") for one in found):
            self.fail(f"'{value}' must be numbers above 0, separated by commas, such as 0.5,0.7,1.0", param, ctx)
        return found


@click.command()
@measure_options
@click.option(
    "--truncation",
    "truncations",
    type=_Truncations(),
    default=None,
    metavar="NUMBERS",
    help="Measure FID, precision and recall of a generator for each truncation, too: 0.5,0.7,1.0. One feature pass each.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --truncation: write a PNG of FID and recall against the truncation.",
)
@click.option(
    "--path-samples",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Steps for each perceptual path length of a generator, two pictures each; 0 leaves them out.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures and their protocols as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one line per figure as CSV.")
def evaluate(
    a: str,
    b: str,
    truncations: tuple[float, ...] | None,
    plot: Path | None,
    path_samples: int,
    as_json: bool,
    as_csv: bool,
    **options: Any,
) -> None:
    """Print every figure of B against A: FID, KID, precision, recall, density, coverage, copies, and more.

    A and B are what gantry fid takes: folders of pictures, zips, prepared datasets, or generators, named as for gantry sample.
    A is the real side, unless A is a generator: then B is. The pictures of each side go through the feature network once.

    A generator that translates (pix2pix, cyclegan, stargan, ...) is measured on prepared data, or on a folder or archive in a
    layout of gantry data add: pairs, trainA and trainB, or a folder for each domain. Its sources are translated, in every
    direction, and compared with the real pictures of the target.

    Each figure has its 95 % interval, the value that a trivial answer gets where there is one, and its protocol. Figures that
    cannot be measured are listed with the reason. A generator against the prepared data that it was trained on has the figures
    of the evaluate stage.
    """
    if as_json and as_csv:
        raise click.UsageError("Give either --json or --csv.")
    if plot and not truncations:
        raise click.UsageError("--plot needs --truncation.")
    sources = open_sources(a, b, MeasureOptions(**options))
    # Imported here: --help need not wait for torch.
    from gan_core.metrics.two_sources import CURVE, assess_sources
    from pipelines.evaluation.truncation_plot import plot_truncations

    found = assess_sources(
        sources.real,
        sources.fake,
        generator=sources.generator,
        extractor=sources.extractor,
        count=sources.count,
        path_samples=path_samples,
        truncations=truncations or (),
        batch_size=options["batch_size"],
        progress=True,
    )
    unreadable = report_skipped(sources)
    if as_json:
        click.echo(json.dumps(_as_dict(a, b, found, unreadable), indent=2))
    elif as_csv:
        click.echo(_as_csv(found), nl=False)
        _print_omitted(found, err=True)
    else:
        _print(sources, found)
    if plot:  # last: if it cannot be written, the figures are not lost
        plot_truncations([figure for figure in found.figures if figure.name in CURVE], plot)
        click.echo(f"Written: {plot}", err=as_json or as_csv)


def _as_dict(a: str, b: str, found: "Assessment", unreadable: dict[str, dict[str, str]]) -> dict[str, Any]:
    from pipelines.evaluation.measure import metrics_json

    return {"a": a, "b": b, **metrics_json(found), **({"unreadable": unreadable} if unreadable else {})}


def _as_csv(found: "Assessment") -> str:
    from gan_core.metrics.protocol import baseline_name, better_is

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for figure in found.figures:
        protocol = figure.protocol
        values = (figure.value, figure.low, figure.high, figure.baseline)
        writer.writerow(
            [
                *(figure.name, protocol.direction, *("" if value is None else repr(value) for value in values)),
                "" if figure.baseline is None else baseline_name(figure.name),
                better_is(figure.name, figure.higher_is_better),
                *(protocol.real_count, protocol.fake_count, protocol.digest, protocol.stamp),
            ]
        )
    return text.getvalue()


def _print(sources: Sources, found: "Assessment") -> None:
    from gan_core.metrics.copying import HELD_OUT
    from gan_core.metrics.protocol import baseline_name, better_is
    from pipelines.evaluation.measure import describe_copying, figure_title
    from pipelines.runtime.progress import format_figure

    rows = [("figure", "value", "95 % interval", "better", "trivial answer", "pictures")]
    for figure in found.figures:
        interval = ""
        if figure.low is not None and figure.high is not None:
            interval = f"{format_figure(figure.low)} to {format_figure(figure.high)}"
        trivial = ""
        if figure.baseline is not None:
            trivial = f"{format_figure(figure.baseline)} ({baseline_name(figure.name)})"
        counts = f"{figure.protocol.fake_count} : {figure.protocol.real_count}"
        better = better_is(figure.name, figure.higher_is_better)
        rows.append((figure_title(figure), format_figure(figure.value), interval, better, trivial, counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"\nPictures: measured : real. Protocol of the FID: {found.objective.protocol.stamp}")
    if found.findings.copying is not None:
        fake = "" if sources.generator else sources.fake.name
        # Beside held-out real pictures, the training pictures of the data are searched.
        searched = "" if found.findings.copying.reference == HELD_OUT else sources.real.name
        click.echo(describe_copying(found.findings.copying, searched, fake))
    _print_omitted(found)


def _print_omitted(found: "Assessment", *, err: bool = False) -> None:
    for name, reason in found.findings.omitted.items():
        click.echo(f"{name} is not measured: {reason}", err=err)
