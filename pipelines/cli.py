"""The ``gantry`` command: a table of verbs, each loaded only when it is called (importing torch takes seconds)."""

import importlib
import io
import os
import signal
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipelines.runtime.account import complete_account
from pipelines.runtime.failures import explain
from pipelines.runtime.proxies import without_proxy
from pipelines.runtime.redaction import redact_output

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
os.environ.update(without_proxy(os.environ))

COMMANDS = {
    "init": ("pipelines.commands.init:init", "Start a project of your own."),
    "demo": ("pipelines.commands.demo:demo", "The whole pipeline on Fashion-MNIST."),
    "data": ("pipelines.commands.data:data", "Bring pictures in: a public dataset, or your own."),
    "run": ("pipelines.commands.run:run", "Run the pipeline now."),
    "serve": ("pipelines.commands.run:serve", "Run the pipeline on a schedule."),
    "ui": ("pipelines.commands.run:ui", "Show the runs: MLflow's and Prefect's pages."),
    "stage": ("pipelines.commands.stage:stage", "Run one stage, as dvc.yaml does."),
    "fid": ("pipelines.commands.fid:fid", "Measure the Fréchet Inception distance."),
    "sample": ("pipelines.commands.sample:sample", "Draw pictures from a generator."),
    "translate": ("pipelines.commands.translate:translate", "Translate pictures into pictures."),
    "augment": ("pipelines.commands.synthesize:augment", "Enlarge a dataset by generated pictures."),
    "project": ("pipelines.commands.project:project", "Find the style nearest to a picture."),
    "settings": ("pipelines.commands.settings:settings", "List every setting and what it means."),
    "recommend": ("pipelines.commands.recommend:recommend", "Say which family suits a dataset."),
    "promote": ("pipelines.commands.promote:promote", "Make the challenger the champion."),
    "rollback": ("pipelines.commands.promote:rollback", "Undo the last promotion."),
    "ledger": ("pipelines.commands.promote:ledger", "List every move of the champion."),
    "track": ("pipelines.commands.track:track", "What the tracking server has not got yet."),
    "doctor": ("pipelines.commands.doctor:doctor", "Check this machine and this project."),
    "completion": ("pipelines.commands.completion:completion", "Print a completion script for a shell."),
}
"""Where each verb is, and what the list of verbs says of it."""


STATUSES = (
    "Exit status: 0 done, 1 failed (the last line says why), 2 wrong usage, 130 Ctrl-C, 128 + n ended by signal n."
)


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; Ctrl-C ends it as it ends any other program of a shell."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(128 + signal.SIGINT)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        place, _ = COMMANDS[cmd_name]
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin with ``incomplete``, without importing them, and the options of ``gantry`` itself."""
        verbs = [CompletionItem(name, help=told) for name, (_, told) in COMMANDS.items() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them, which click's own list does."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])


def _print_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from gan_core.precision import choose_device
    from pipelines.runtime.versions import versions

    click.echo(f"{versions()}, device {choose_device()}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=STATUSES)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show versions and exit.",
)
def gantry() -> None:
    """Gantry takes a folder of pictures to a registered generator and keeps it current."""


def main() -> None:
    """Run the command line. Any error becomes one line on stderr; see :data:`STATUSES` for what the command ends with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding has not is no error
    redact_output()
    try:
        complete_account()
        gantry(prog_name="gantry")
    except Exception as error:
        # Python's own would print a traceback; click has dealt with wrong usage, Ctrl-C and a closed pipe.
        click.secho(f"error: {explain(error)}", fg="red", err=True)
        sys.exit(1)
