"""``gantry completion``: print the script with which a shell completes subcommands, options and file names."""

import click
from click.shell_completion import get_completion_class

from gan_core.errors import SettingsError

_VARIABLE = "_GANTRY_COMPLETE"
"""The script sets this variable when it asks ``gantry`` for completions. Click derives the name from the program's name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    bash:  gantry completion bash > ~/.local/share/bash-completion/completions/gantry
    zsh:   gantry completion zsh > "${fpath[1]}/_gantry"
    fish:  gantry completion fish > ~/.config/fish/completions/gantry.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, f"click knows no shell {shell}"
    try:
        click.echo(kind(ctx.find_root().command, {}, "gantry", _VARIABLE).source())
    except RuntimeError as error:  # bash is older than 4.4
        raise SettingsError(f"No completion for {shell}: {error}") from error
