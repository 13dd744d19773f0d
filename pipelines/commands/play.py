"""``gantry play MODEL``: try out a generator on a web page of this machine."""

import os
import socket
import tempfile
import webbrowser
from contextlib import ExitStack
from pathlib import Path

import click

from pipelines.flow.web import address_of, listen


@click.command()
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the page.  [default: any free port]")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def play(model: str, port: int | None, open_browser: bool, device: str) -> None:
    """Try out a generator on a web page of this machine, until Ctrl-C.

    Name MODEL as for gantry sample. The page has what the family can do: seed, class, truncation, style mixing, directions
    found in the weights, and the projection of a picture; or translation of a picture to a target. Downloaded pictures say how
    they were made (gantry trace).

    The page is only on this machine, and only the printed address opens it: it holds a token that is new at each start.
    """
    with listen(port or 0, only=True) as listening:
        _serve(model, listening, open_browser, device)


def _serve(model: str, listening: socket.socket, open_browser: bool, device: str) -> None:
    # Imported here: --help, and the error for a port in use, need not wait for torch.
    from gan_core.inference.generator import load_generator
    from gan_core.precision import choose_device
    from pipelines.play.server import make_token, serve
    from pipelines.play.session import Session
    from pipelines.registry.find import find_model
    from pipelines.settings.tracking_uri import project_tracking_uri

    with find_model(model, tracking_uri=project_tracking_uri(Path.cwd())) as found:
        generator = load_generator(found.folder, choose_device(device))
    with ExitStack() as stack:
        session, token = Session(generator, found.version or Path(model).resolve().name), make_token()
        address = f"{address_of(listening)}/#{token}"
        click.echo(f"{session.name} ({generator.info['family']}, generator {generator.digest[:12]}): {address}")
        click.echo("Ctrl-C ends it. Whoever has the address, on this machine, can use the page.")
        if open_browser:
            webbrowser.open(_private_link(address, stack).as_uri())
        serve(session, listening, token)


def _private_link(address: str, stack: ExitStack) -> Path:
    """A file that leads a browser to ``address``, which every user could read in the browser's arguments. Only the owner can
    read the file; ``stack`` removes it."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-play-"))  # mode 0700
    path = Path(folder) / "play.html"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><title>gantry play</title><meta http-equiv="refresh" content="0; url={address}">\n')
    return path
