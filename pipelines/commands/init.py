"""``gantry init DIR``: a project of one's own that uses the installed Gantry."""

import shlex
from pathlib import Path

import click


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def init(directory: Path) -> None:
    """Start a project in DIRECTORY, which is empty or does not exist: settings, stages, DVC, git.

    The project uses the installed Gantry; it holds no code. An upgrade of Gantry runs again what it changes.
    """
    from pipelines.runtime.new_project import make_project

    root = directory.absolute()
    committed = make_project(root)
    click.echo(f"A new project is in {root}{', committed to git' if committed else '; commit it to git'}. Next:")
    click.echo(
        f"  cd {shlex.quote(str(directory))}\n  gantry data fetch digits     (or: gantry data add NAME FOLDER)\n  gantry run"
    )
