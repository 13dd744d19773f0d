"""``gantry trace THING``: from a picture, a version, a run or a commit to the data and the code."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pipelines.registry.ledger import escape_nonprintable
from pipelines.runtime.checkout import Checkout

if TYPE_CHECKING:
    from pipelines.registry.trace import Trace


@click.command()
@click.argument("thing")
@click.option("--files", is_flag=True, help="List every raw file with its MD5.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every raw file and the whole dvc.lock.")
def trace(thing: str, files: bool, as_json: bool) -> None:
    """Show where THING comes from: version, run, settings, data, raw files and commit.

    THING is a PNG that gantry sample, translate or play or a served model made, a version (NAME/VERSION or NAME@ALIAS), the id
    of an MLflow run, or a commit.
    """
    # Imported here: --help need not wait for torch.
    from pipelines.registry.trace import trace as find
    from pipelines.settings.schema import load_settings

    found = find(thing, tracking_uri=load_settings().track.uri, checkout=Checkout.at())
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    for line in _lines(found, files):
        click.echo(escape_nonprintable(line))


def _lines(found: "Trace", files: bool) -> list[str]:
    lines = [f"{found.kind}  {found.thing}"]
    if found.picture:
        lines.append(f"made by  {', '.join(f'{name} {value}' for name, value in found.picture.items())}")
    lines += [f"  {name}  {value}" for name, value in found.run.items()]
    for one in found.versions:
        aliases = f" ({', '.join(one.aliases)})" if one.aliases else ""
        lines += [
            f"version  {one.version}{aliases}",
            f"  generator  {one.generator}",
            f"  run  {one.run}{f'  {one.run_url}' if one.run_url else ''}",
            f"  commit  {one.commit}{f'  {one.commit_subject}' if one.commit_subject else ''}",
            *([f"  trained at commit  {trained}"] if (trained := one.lineage.get("gantry.train_commit")) else []),
            f"  dvc.lock  sha256 {one.lineage.get('gantry.dvc_lock', 'none')}",
            f"  prepared data  {one.dataset}",
        ]
        lines += [f"  raw data  {place}  md5 {digest}" for place, digest in one.raw.items()]
        lines.append(f"  raw files  {len(one.raw_files)}{'' if files else ' (--files lists them)'}")
        lines += [f"    {md5}  {name}" for name, md5 in sorted(one.raw_files.items())] if files else []
        lines += [f"  {name} = {value}" for name, value in _flat(one.settings)]
        lines += [f"  note: {note}." for note in one.notes]
    return lines


def _flat(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings by dotted name."""
    if not isinstance(values, dict):
        return [(prefix, json.dumps(values))]
    return [row for name, value in values.items() for row in _flat(value, f"{prefix}.{name}" if prefix else str(name))]
