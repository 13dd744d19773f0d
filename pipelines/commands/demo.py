"""``gantry demo``: fetch data and weights, run the whole pipeline, and print the results."""

import time

import click

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.progress import format_duration, say


@click.command()
def demo() -> None:
    """Run the whole pipeline on Fashion-MNIST with the settings of params.yaml. Takes about 12 minutes on 2 CPU cores."""
    started = time.monotonic()
    # Imported here: `gantry --help` need not wait for torch and Prefect.
    from gan_core.download.weights import inception_file
    from pipelines.commands.run import run_pipeline
    from pipelines.data.raw import fetch_public
    from pipelines.data.sources import PUBLIC_DATASETS
    from pipelines.settings.schema import load_settings

    checkout = Checkout.at()
    settings = load_settings(checkout.params)
    if settings.data.name in PUBLIC_DATASETS:
        say("demo", f"raw data: {settings.data.name}")
        fetch_public(settings.data.name, checkout=checkout)
    say("demo", "weights of the Inception network, which measures the FID")
    inception_file()
    run_pipeline(checkout, [], None, {})
    click.echo(summary(checkout, time.monotonic() - started))


def summary(checkout: Checkout, seconds: float) -> str:
    """A summary of the results, with the next commands."""
    from pipelines.flow.outcome import result_summary

    return "\n".join(
        [
            "",
            f"Done in {format_duration(seconds)}.",
            *result_summary(checkout),
            "  look at it     .venv/bin/gantry ui       (MLflow and Prefect pages)",
            "  promote it     .venv/bin/gantry promote",
            "  change it      edit params.yaml, then .venv/bin/gantry run; only the stages that it affects run again",
        ]
    )
