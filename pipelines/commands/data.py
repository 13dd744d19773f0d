"""``gantry data``: add raw data, public or the user's own, and compare data."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gan_core.metrics.protocol import FEATURES
from pipelines.data.sources import PUBLIC_DATASETS, public_dataset
from pipelines.runtime.checkout import Checkout

if TYPE_CHECKING:
    from pipelines.data.raw import RawData


_SHEET = 64
"""Most pictures on the sheet of added pictures."""


@click.group()
def data() -> None:
    """Add pictures: a public dataset by name, or your own."""


@data.command()
@click.argument("name", metavar="|".join(PUBLIC_DATASETS))
@click.option("--replace", is_flag=True, help="Replace existing data of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fetch(name: str, replace: bool, as_json: bool) -> None:
    """Download a public dataset into data/raw.

    Files come from their official address or, if that fails, from a mirror. Their SHA-256 is checked.
    """
    from pipelines.data import raw  # imported here: --help need not wait for pyarrow

    added = raw.fetch_public(name, checkout=Checkout.at(), replace=replace)
    _show(added, as_json)
    if not as_json and (settings := public_dataset(name).settings):
        click.echo(f"In params.yaml, set data.name: {added.path.name}, and in the section ingest:")
        click.echo("\n  or\n".join(f"  {line}" for line in settings))


@data.command()
@click.argument("name")
@click.argument("source", metavar="PATH-OR-URL")
@click.option(
    "--labels", metavar="FILE", help="Label table (CSV, TSV, Parquet): a local path or a path within the source."
)
@click.option("--image-column", help="Column of file names in the label table, or of pictures in Parquet files.")
@click.option("--label-column", help="Column of labels in the label table or in Parquet files.")
@click.option(
    "--encoding",
    metavar="NAME",
    help="Encoding of the file names in an archive that does not state it: cp932, gbk, ...",
)
@click.option("--replace", is_flag=True, help="Replace existing data of this name.")
@click.option(
    "--copy", is_flag=True, help="Copy pictures from a bucket (s3://, gs://, az://) instead of leaving them there."
)
@click.option(
    "--publish",
    is_flag=True,
    help="Commit the data, push it (dvc push, git push), and start the deployments that changed data starts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def add(
    name: str,
    source: str,
    labels: str | None,
    image_column: str | None,
    label_column: str | None,
    encoding: str | None,
    replace: bool,
    copy: bool,
    publish: bool,
    as_json: bool,
) -> None:
    """Copy your own pictures into data/raw/NAME.

    The source is a folder, zip, tar, IDX or Parquet file: a local path or an fsspec URL.

    Pictures in a bucket (s3://BUCKET/PREFIX, gs://, az://) stay there: data/raw/NAME then lists the objects and their versions,
    and a run stops if one of them has changed. Credentials come from the environment.

    Classes come from sub-folders, a label table, StyleGAN's dataset.json or a Parquet column. The table given by --labels
    may hold attributes, like CelebA's list_attr. Splits come from folders named train, test or val, from files such as
    train-00000-of-00002.parquet, or from a column "split". Folders trainA, trainB, testA and testB are two domains.

    The command prints the splits and the counts of classes: check them. Then set data.name in params.yaml to NAME. To
    translate pictures, also set ingest.kind to paired, unpaired or domains.
    """
    from pipelines.data import raw

    checkout = Checkout.at()
    if publish:
        from pipelines.flow.data_event import check_publishable

        check_publishable(checkout)  # before a long copy
    added = raw.add(
        name,
        source,
        checkout=checkout,
        labels=labels,
        image_column=image_column,
        label_column=label_column,
        encoding=encoding,
        replace=replace,
        copy=copy,
    )
    _show(added, as_json)
    if publish:
        from pipelines.flow.data_event import publish_data

        for line in publish_data(checkout, name):
            click.echo(line, err=as_json)


@data.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--n",
    "count",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Most pictures of each side for figures.",
)
@click.option("--features", type=click.Choice([str(n) for n in FEATURES]), default="2048", help="Inception layer.")
@click.option("--split", default="train", show_default=True, help="Split for figures.")
@click.option("--no-figures", is_flag=True, help="Count pictures only; needs no Inception network.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--sheet", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG sheet of added pictures.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Also write the difference as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the difference as JSON.")
def diff(
    a: str,
    b: str,
    count: int,
    features: str,
    split: str,
    no_figures: bool,
    device: str,
    sheet: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show how the data B differs from the data A.

    Each is a prepared folder (data/prepared), raw data (the name of a folder in data/raw, or any folder of pictures), a git
    revision, or a registered version (NAME@champion: the data that it was trained on). Pictures are compared by their pixels,
    or by the names of their source files if their size or channels differ.

    The figures are FID, KID, and coverage: the share of B's pictures that A's cover. They are 0, 0 and 1 for the same data.
    """
    from gan_core.files import write_json
    from gan_core.images.grid import save_sheet
    from gan_core.metrics.inception import load_inception
    from gan_core.precision import choose_device
    from pipelines.datadiff.diff import added_pictures, diff_datasets, measure_figures
    from pipelines.datadiff.places import prepared_data
    from pipelines.datadiff.report import diff_lines
    from pipelines.settings.tracking_uri import project_tracking_uri

    checkout = Checkout.at()
    uri = project_tracking_uri(checkout.root)
    with prepared_data(a, checkout, uri) as before, prepared_data(b, checkout, uri) as after:
        found, added = diff_datasets(before, after, (a, b))
        if not no_figures and not found.same:
            extractor = load_inception(choose_device(device), "fp32", int(features))
            figures, omitted = measure_figures(
                before, after, extractor=extractor, count=count, split=split, progress=not as_json
            )
            found = replace(found, figures=figures, omitted=omitted)
        if sheet and added:
            save_sheet(sheet, added_pictures(after, added, _SHEET))
    if output:
        write_json(output, found.as_dict())
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    for line in diff_lines(found):
        click.echo(line)
    if sheet:
        click.echo(
            f"{min(len(added), _SHEET)} of {len(added):,} added pictures: {sheet}" if added else "No added pictures."
        )


def _show(added: "RawData", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(added), "path": str(added.path)}))
        return
    classes = (
        f"{len(added.classes)} {'classes' if added.kind == 'labelled' else 'domains'}" if added.classes else "no labels"
    )
    classes = f"{len(added.attributes)} attributes" if added.attributes else classes
    tracked = f"tracked by {added.path.name}.dvc" if added.tracked else "not versioned (no DVC repository here)"
    click.echo(f"{added.path}: {added.pictures} pictures ({added.format}, {classes}), {tracked}")
    for line in added.found:
        click.echo(f"  {line}")
