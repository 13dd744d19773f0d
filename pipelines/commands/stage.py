"""``gantry stage NAME``: what dvc.yaml calls. A thin shell over one function a stage."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path

import click

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.code import STAGE as CODE
from pipelines.runtime.code import write_digests
from pipelines.stages.context import StageContext, run_stage

BODIES = {
    "ingest": "pipelines.stages.ingest",
    "tune": "pipelines.stages.tune",
    "train": "pipelines.stages.train",
    "evaluate": "pipelines.stages.evaluate",
    "register": "pipelines.stages.register",
}


@click.command()
@click.argument("name", type=click.Choice([CODE, *BODIES]))
def stage(name: str) -> None:
    """Run one stage here and now, as dvc.yaml does (usually you want `gantry run` or `dvc repro`)."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if name == CODE:
        # Takes no time and has no work directory: its result depends on the installed package, of which DVC knows nothing.
        write_digests(Path.cwd())
        return
    run_stage(name, _body, Checkout.at())


def _body(context: StageContext) -> Mapping[str, Path]:
    # Imported here, behind the guard's fork: torch and Ray start threads, which do not survive one.
    from pipelines.settings.schema import load_settings

    settings = load_settings(context.checkout.params)
    if context.name == "ingest":
        # It need not know the model, but would prepare for minutes what the model cannot make.
        settings.check_pictures()
    return importlib.import_module(BODIES[context.name]).run(context, settings)
