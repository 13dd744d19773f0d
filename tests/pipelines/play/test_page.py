"""``gantry play`` in a real browser: what a user sees, and the end by Ctrl-C."""

import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.generate.screenshots import BROWSERS, Tab, chromium
from tests.pipelines.play.conftest import export_small, png
from tests.pipelines.toy import CHECKOUT, environment

GANTRY = str(Path(sys.executable).with_name("gantry"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that ``gantry play`` serves. At the end, Ctrl-C ends it."""
    folder = export_small("stylegan2", tmp_path_factory.mktemp("played") / "shoes")
    process = subprocess.Popen(
        [GANTRY, "play", str(folder)],
        cwd=folder.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        first = process.stdout.readline()
        assert first.startswith("shoes (stylegan2, generator "), first
        yield first.split()[-1]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert errors == "Stopped.\n"
    finally:
        process.kill()
        process.wait()


def test_the_page_listens_on_loopback_only(address: str) -> None:
    parts = urllib.parse.urlsplit(address)
    assert parts.hostname in ("127.0.0.1", "::1")
    assert len(parts.fragment) >= 32
    with socket.create_connection((parts.hostname, parts.port), timeout=10):
        pass


def ask(tab: Tab, expression: str) -> Any:
    return tab.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


def wait_for(tab: Tab, expression: str) -> Any:
    """Wait until a JavaScript expression is true; returns its value."""
    deadline = time.monotonic() + 60
    while not (value := ask(tab, expression)):
        assert time.monotonic() < deadline, f"{expression} did not become true; the page says: {ask(tab, SAYS)}"
        time.sleep(0.1)
    return value


SAYS = "document.body.innerText"
PIXELS = """(() => {
  const picture = document.getElementById("picture"), canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL();
})()"""
SHOWN = "document.getElementById('picture').complete && Number(document.body.dataset.pictures || 0)"


def change(tab: Tab, element: str, value: object, event: str = "input") -> str:
    """Set a control as a user does, wait for the next picture, and return its pixels."""
    before = ask(tab, SHOWN) or 0
    found = f"document.getElementById({element!r})"
    ask(tab, f"{found}.value = {value!r}; {found}.dispatchEvent(new Event({event!r}))")
    wait_for(tab, f"{SHOWN} > {before}")
    return ask(tab, PIXELS)


def test_moving_a_slider_changes_the_picture(address: str, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome on the PATH")
    (tmp_path / "mine.png").write_bytes(png())
    with chromium(browser, tmp_path / "profile") as tab:
        tab.open(address, wait=0)
        wait_for(tab, f"document.readyState === 'complete' && {SHOWN}")
        first = ask(tab, PIXELS)
        moved = change(tab, "direction-0", 4)
        assert moved != first
        assert change(tab, "direction-0", 0) == first
        assert change(tab, "seed", 5, "change") != first
        assert ask(tab, "document.getElementById('caption').textContent") == "seed 5"
        link = ask(tab, "(({href, download}) => [href, download])(document.getElementById('download'))")
        assert link[0].startswith("blob:")
        assert link[1] == "shoes-seed5.png"
        # A wrong value is a message on the page.
        ask(tab, "let seed = document.getElementById('seed'); seed.value = -3; seed.dispatchEvent(new Event('change'))")
        assert "must be a whole number" in wait_for(tab, "document.getElementById('message').textContent")
        # A picture is projected, in the class that is chosen.
        change(tab, "label", 1, "change")
        node = tab.call("DOM.querySelector", nodeId=tab.call("DOM.getDocument")["root"]["nodeId"], selector="#project")
        tab.call("DOM.setFileInputFiles", files=[str(tmp_path / "mine.png")], nodeId=node["nodeId"])
        wait_for(tab, "document.getElementById('caption').textContent.startsWith('your picture, projected')")
        assert "grey levels from your picture" in ask(tab, SAYS)
        assert ask(tab, "document.getElementById('label').disabled"), "the styles that were found have the class"
        change(tab, "seed", 6, "change")
        assert not ask(tab, "document.getElementById('label').disabled")

        # A picture is shown with its own seed, also if another one is wanted by then.
        before = ask(tab, SHOWN)
        ask(
            tab,
            "captions = []; new MutationObserver(() => captions.push(document.getElementById('caption').textContent))"
            ".observe(document.getElementById('caption'), {childList: true});"
            "for (const of of [7, 8]) { seed.value = of; seed.dispatchEvent(new Event('change')); }",
        )
        wait_for(tab, f"{SHOWN} > {before} + 1")
        assert ask(tab, "captions") == ["seed 7 · class shirt", "seed 8 · class shirt"]
        # A file that is refused leaves the projection in progress.
        (tmp_path / "no.png").write_bytes(b"no picture")
        tab.call("DOM.setFileInputFiles", files=[str(tmp_path / "mine.png")], nodeId=node["nodeId"])
        wait_for(tab, "!document.getElementById('progress').hidden")
        tab.call("DOM.setFileInputFiles", files=[str(tmp_path / "no.png")], nodeId=node["nodeId"])
        wait_for(tab, "document.getElementById('project').nextSibling.textContent.startsWith('Drop')")  # it was refused
        wait_for(tab, "document.getElementById('caption').textContent.startsWith('your picture, projected')")

        tab.open(address.partition("#")[0], wait=0)  # without the token
        wait_for(tab, "document.getElementById('message')?.textContent.includes('token is missing')")


def test_the_command_refuses_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [GANTRY, "play", str(tmp_path), "--port", str(port)],
            cwd=CHECKOUT,
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert f"Port {port} of this machine is in use" in done.stderr
