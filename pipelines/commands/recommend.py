"""``gantry recommend DATA``: recommend a family for a prepared dataset."""

import json
import textwrap
from dataclasses import asdict
from pathlib import Path

import click

from pipelines.runtime.checkout import PREPARED


@click.command()
@click.argument("data", type=click.Path(path_type=Path), default=Path(PREPARED))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recommend(data: Path, device: str, as_json: bool) -> None:
    """Recommend a family for the prepared dataset DATA, with the reason and the training time on this device.

    The time is estimated from the number of operations and the measured speed of a matrix product. It may be off by a factor of
    about two.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.data import PreparedDataset
    from gan_core.precision import choose_device
    from gan_core.presets.recommend import recommend as ranked

    info = PreparedDataset(data).info
    found = ranked(info, choose_device(device))
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found], indent=2))
        return
    labels = f"{len(info.classes)} classes" if info.classes else "no labels"
    if info.kind in ("paired", "unpaired", "domains"):
        labels = (
            f"{info.kind}: {', '.join(info.attributes or info.classes) or info.derived or 'pictures and conditions'}"
        )
    click.echo(
        f"{info.name}: {info.splits['train']} pictures of {info.height}x{info.width}x{info.channels}, {labels}\n"
    )
    for entry in found:
        cost = "-" if entry.hours is None else format_hours(entry.hours)
        click.echo(f"{entry.family:<10}  {entry.kimg:>6} kimg  {cost:>10}  {entry.reason}")
        if entry.problem:
            click.echo(textwrap.indent(textwrap.fill(entry.problem, 100), " " * 12))
    click.echo(f"\nIn params.yaml: model: {{family: {found[0].family}, preset: auto}}")
    click.echo(
        "In the section train, keep only the settings that you want to choose yourself: they override the recipe."
    )


def format_hours(hours: float) -> str:
    """Format hours as minutes, hours or days."""
    if hours < 1:
        return f"{max(hours * 60, 1):.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
