"""``gantry init DIR``: start a project that uses the installed Gantry."""

import shlex
from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def init(directory: Path) -> None:
    """Start a project in DIRECTORY: settings, stages, DVC and git.

    DIRECTORY must be empty or not exist. The project contains no code: it uses the installed Gantry. After an upgrade of
    Gantry, the stages whose code changed run again.
    """
    from pipelines.runtime.new_project import make_project

    root = directory.absolute()
    committed = make_project(root)
    click.echo(f"A new project is in {root}{', committed to git' if committed else '; commit it to git'}. Next:")
    click.echo(
        f"  cd {shlex.quote(str(directory))}\n  gantry data fetch digits     (or: gantry data add NAME FOLDER)\n  gantry run"
    )
