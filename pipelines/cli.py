"""The ``gantry`` command: a table of verbs, each loaded only when it is called (importing torch takes seconds)."""

import importlib
import os
import sys

import click

from gan_core.errors import GantryError
from gan_core.files import what_failed

# Nothing that Gantry starts reports home; a user who wants it sets the variable.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    # Being ended is no crash: without this Ray prints a native stack for it. Python's own for real crashes stays.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}.items():
    os.environ.setdefault(_name, _value)

COMMANDS = {
    "demo": "pipelines.demo:demo",
    "data": "pipelines.data.cli:data",
    "run": "pipelines.flow.cli:run",
    "serve": "pipelines.flow.cli:serve",
    "ui": "pipelines.flow.cli:ui",
    "stage": "pipelines.stages.cli:stage",
    "fid": "pipelines.fid:fid",
    "sample": "pipelines.sample:sample",
    "translate": "pipelines.translate:translate",
    "augment": "pipelines.augment:augment",
    "project": "pipelines.project:project",
    "recommend": "pipelines.recommend:recommend",
    "promote": "pipelines.registry.cli:promote",
    "rollback": "pipelines.registry.cli:rollback",
    "track": "pipelines.tracking.cli:track",
}


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return getattr(importlib.import_module(module), attribute)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gantry-gan")
def gantry() -> None:
    """Gantry takes a folder of pictures to a registered generator and keeps it current."""


def main() -> None:
    """Run the command line; print Gantry's own errors without a traceback and exit with 1."""
    try:
        gantry(prog_name="gantry")
    except GantryError as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        click.secho(f"error: {what_failed(error)}", fg="red", err=True)
        sys.exit(1)
