"""``gantry demo``: data, weights, the whole pipeline, and where to look at what it made."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gan_core.errors import TrackingError
from gan_core.files import read_json
from pipelines.runtime.progress import duration, say
from pipelines.runtime.redaction import redact_credentials

if TYPE_CHECKING:
    from pipelines.settings.schema import Settings


@click.command()
def demo() -> None:
    """Run everything on Fashion-MNIST, with the settings of params.yaml: a quarter of an hour on two CPU cores."""
    started = time.monotonic()
    # Imported here: `gantry --help` need not wait for torch and Prefect.
    from gan_core.download.weights import inception_file
    from pipelines.commands.run import run_pipeline
    from pipelines.data.raw import fetch_public
    from pipelines.data.sources import PUBLIC_DATASETS
    from pipelines.settings.schema import load_settings

    root = Path.cwd()
    settings = load_settings(root / "params.yaml")
    if settings.data.name in PUBLIC_DATASETS:
        say("demo", f"raw data: {settings.data.name}")
        fetch_public(settings.data.name, root=root)
    say("demo", "weights of the feature network that FID is measured with")
    inception_file()
    run_pipeline(root, [], None, {})
    click.echo(summary(root, settings, time.monotonic() - started))


def summary(root: Path, settings: "Settings", seconds: float) -> str:
    """What was made and where to look, from the stages' results.

    Raises:
        TrackingError: the registry does not have the version that the last run registered, or cannot be reached.
    """
    from pipelines.flow.outcome import made
    from pipelines.registry.find import is_registered

    version = read_json(root / "outputs/register/registered.json")
    if not is_registered(version["name"], version["version"], tracking_uri=settings.track.uri):
        raise TrackingError(
            f"{version['name']} version {version['version']} was registered by an earlier run and is not at "
            f"{redact_credentials(settings.track.uri)}. Register it there: .venv/bin/dvc repro --force --single-item register"
        )
    return "\n".join(
        [
            "",
            f"Done in {duration(seconds)}.",
            *made(root),
            "  look at it     .venv/bin/gantry ui       (MLflow and Prefect pages)",
            "  promote it     .venv/bin/gantry promote",
            "  change it      edit params.yaml, then .venv/bin/gantry run; only what changed is done again",
        ]
    )
