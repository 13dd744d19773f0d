"""``gantry stage NAME``: run one stage. This is the command of each stage in dvc.yaml."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path

import click

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.code import CODE_STAGE, check_own_code, write_digests
from pipelines.runtime.dvc_command import announce_wait
from pipelines.runtime.key import StageDefinition
from pipelines.settings.params import read_params
from pipelines.stages.context import StageContext, run_stage

LOG = logging.getLogger(__name__)

BODIES = {
    "ingest": "pipelines.stages.ingest",
    "tune": "pipelines.stages.tune",
    "train": "pipelines.stages.train",
    "evaluate": "pipelines.stages.evaluate",
    "register": "pipelines.stages.register",
}


@click.command()
@click.argument("name", type=click.Choice([CODE_STAGE, *BODIES]))
def stage(name: str) -> None:
    """Run one stage, as dvc.yaml does. (Usually you want `gantry run` or `dvc repro`.)"""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if name == CODE_STAGE:
        # No work directory: it takes no time, and its result depends on the installed package, which DVC does not know.
        write_digests(Path.cwd())
        return
    checkout = Checkout.at()
    check_own_code(checkout.root)
    run_stage(name, _body, checkout, storage_uri=lambda: _storage_uri(checkout), inputs=_inputs)
    announce_wait(checkout.root, LOG)  # DVC takes its lock again to record the results


def _body(context: StageContext) -> Mapping[str, Path]:
    # Imported here, after the guard's fork: torch and Ray start threads, which do not survive a fork.
    from pipelines.settings.schema import load_settings

    settings = load_settings(context.checkout.params)
    if context.name == "ingest":
        # Ingestion does not need the model. The check saves minutes of preparing pictures that the model cannot make.
        settings.check_pictures()
    return importlib.import_module(BODIES[context.name]).run(context, settings)


def _inputs(definition: StageDefinition, checkout: Checkout) -> Mapping[str, str]:
    """The digest of the run that the search or training starts from, if train.start_from names one."""
    start_from = (read_params(checkout.params).get("train") or {}).get("start_from")
    if definition.name not in ("tune", "train") or start_from is None:
        return {}
    from pipelines.stages.parent import parent_inputs

    return parent_inputs(definition, checkout)


def _storage_uri(checkout: Checkout) -> str:
    from pipelines.settings.schema import load_settings

    return load_settings(checkout.params).storage.resolve_uri()
