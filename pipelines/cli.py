"""The ``gantry`` command: a table of subcommands. Each is imported only when it is called, because torch takes seconds."""

import importlib
import io
import os
import signal
import sys
from itertools import pairwise
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipelines.runtime.account import ensure_account
from pipelines.runtime.environment import open_standard_streams, set_up_environment
from pipelines.runtime.failures import explain_error
from pipelines.runtime.redaction import redact_output

COMMANDS = {
    "init": ("pipelines.commands.init:init", "Start a project of your own."),
    "demo": ("pipelines.commands.demo:demo", "Run the whole pipeline on Fashion-MNIST."),
    "data": ("pipelines.commands.data:data", "Add pictures: a public dataset, or your own."),
    "run": ("pipelines.commands.run:run", "Run the pipeline now."),
    "plan": ("pipelines.commands.plan:plan", "Say what a run would do, without running."),
    "serve": ("pipelines.commands.run:serve", "Run the pipeline on a schedule."),
    "deploy": ("pipelines.commands.deploy:deploy", "Schedule runs on the workers of a Prefect work pool."),
    "worker": ("pipelines.commands.deploy:worker", "Run deployments on this machine."),
    "backfill": ("pipelines.commands.deploy:backfill", "Run a deployment for a list of revisions."),
    "ui": ("pipelines.commands.run:ui", "Serve the web pages of MLflow and Prefect."),
    "stage": ("pipelines.commands.stage:stage", "Run one stage, as dvc.yaml does."),
    "fid": ("pipelines.commands.fid:fid", "Measure the Fréchet Inception distance."),
    "evaluate": ("pipelines.commands.evaluate:evaluate", "Measure every figure of two sets of pictures."),
    "sample": ("pipelines.commands.sample:sample", "Generate pictures."),
    "play": ("pipelines.commands.play:play", "Try out a generator on a web page."),
    "translate": ("pipelines.commands.translate:translate", "Translate pictures into pictures."),
    "augment": ("pipelines.commands.augment:augment", "Enlarge a dataset with generated pictures."),
    "project": ("pipelines.commands.project:project", "Project a picture into the style space."),
    "import": ("pipelines.commands.import_:import_", "Convert public pix2pix or CycleGAN weights."),
    "export": ("pipelines.commands.export:export", "Write a generator as one ONNX or torch file."),
    "compare": ("pipelines.commands.compare:compare", "Compare runs, versions and revisions."),
    "settings": ("pipelines.commands.settings:settings", "List every setting and what it means."),
    "recommend": ("pipelines.commands.recommend:recommend", "Recommend a family for a dataset."),
    "promote": ("pipelines.commands.promote:promote", "Make the challenger the champion."),
    "rollback": ("pipelines.commands.promote:rollback", "Undo the last promotion."),
    "ledger": ("pipelines.commands.promote:ledger", "List promotions and rollbacks."),
    "reproduce": ("pipelines.commands.reproduce:reproduce", "Make a version again and compare it to the byte."),
    "trace": ("pipelines.commands.trace:trace", "Trace a picture, version, run or commit to its data and code."),
    "track": ("pipelines.commands.track:track", "List or send unsent tracking events."),
    "storage": ("pipelines.commands.storage:storage", "List what the shared storage holds, and remove what is unused."),
    "doctor": ("pipelines.commands.doctor:doctor", "Check this machine and this project."),
    "completion": ("pipelines.commands.completion:completion", "Print a completion script for a shell."),
}
"""The module and function of each subcommand, and its line in ``gantry --help``."""


EXIT_STATUSES = (
    "Exit status: 0 done, 1 failed (the last line says why), 2 wrong usage, 130 Ctrl-C, 128 + n ended by signal n."
)


class LazyGroup(click.Group):
    """A click group whose commands are imported on first use."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. Ctrl-C ends it with the exit status that shells expect."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(128 + signal.SIGINT)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand; raises UsageError if one of its words is empty, as that of a shell variable without a value is.

        Many commands take nothing for a default: ``gantry promote "$VERSION"`` would promote the newest version.
        """
        for before, word in pairwise(args):
            option = (
                word.removesuffix("=") if word.startswith("--") and word.count("=") == 1 and word[-1] == "=" else ""
            )
            if not ctx.resilient_parsing and (not word or option):
                what = f"The value of {option}" if option else f"The argument after '{before}'"
                raise click.UsageError(
                    f"{what} is empty. If it comes from a shell variable, check that the variable is set.", ctx
                )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the subcommand ``cmd_name``."""
        if cmd_name not in COMMANDS:
            return None
        place, _ = COMMANDS[cmd_name]
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The subcommands that begin with ``incomplete``, without importing them, and the options of ``gantry`` itself."""
        verbs = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them. (Click's own list imports them.)"""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _print_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from gan_core.precision import choose_device
    from pipelines.runtime.versions import versions

    click.echo(f"{versions()}, device {choose_device()}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_STATUSES)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show versions and exit.",
)
def gantry() -> None:
    """Train a GAN on a folder of pictures, measure it, register it, and retrain it on a schedule."""


def main() -> None:
    """Run the command line. Any error becomes one line on stderr; for the exit status see :data:`EXIT_STATUSES`."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # print names that the terminal's encoding cannot represent
    redact_output()
    try:
        os.getcwd()  # raises if the current folder was removed, in which MKL would end the process later
        set_up_environment()
        ensure_account()
        gantry(prog_name="gantry")
    except Exception as error:
        # Click has already handled wrong usage, Ctrl-C and a closed pipe. All else would print a traceback.
        click.secho(f"error: {explain_error(error)}", fg="red", err=True)
        sys.exit(1)
