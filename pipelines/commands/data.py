"""``gantry data``: add raw data, public or the user's own."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipelines.data.sources import PUBLIC_DATASETS, public_dataset
from pipelines.runtime.checkout import Checkout

if TYPE_CHECKING:
    from pipelines.data.raw import RawData


@click.group()
def data() -> None:
    """Add pictures: a public data set by name, or your own."""


@data.command()
@click.argument("name", metavar="|".join(PUBLIC_DATASETS))
@click.option("--replace", is_flag=True, help="Replace existing data of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fetch(name: str, replace: bool, as_json: bool) -> None:
    """Download a public data set into data/raw.

    Files come from their official address, or else from a mirror, and their SHA-256 is checked.
    """
    from pipelines.data import raw  # imported here so that --help does not load pyarrow

    added = raw.fetch_public(name, checkout=Checkout.at(), replace=replace)
    _show(added, as_json)
    if not as_json and (settings := public_dataset(name).settings):
        click.echo(f"In params.yaml set data.name: {added.path.name}, and in the section ingest")
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
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def add(
    name: str,
    source: str,
    labels: str | None,
    image_column: str | None,
    label_column: str | None,
    encoding: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Copy your own pictures into data/raw/NAME.

    The source is a folder, zip, tar, IDX or Parquet file: a local path or an fsspec URL.

    Classes come from sub-folders, a label table, StyleGAN's dataset.json or a Parquet column. The table given by --labels
    may hold attributes, like CelebA's list_attr. Splits come from folders named train, test or val, from files such as
    train-00000-of-00002.parquet, or from a column "split". Folders trainA, trainB, testA and testB are two domains.

    The command prints the splits and the counts of classes: check them. Then set data.name in params.yaml to NAME. To
    translate pictures, also set ingest.kind to paired, unpaired or domains.
    """
    from pipelines.data import raw

    added = raw.add(
        name,
        source,
        checkout=Checkout.at(),
        labels=labels,
        image_column=image_column,
        label_column=label_column,
        encoding=encoding,
        replace=replace,
    )
    _show(added, as_json)


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
