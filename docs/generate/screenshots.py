"""Make the screenshots of the documentation from real runs: ``make screenshots``.

Starts a project on the digits, runs the pipeline with a search of eight trials, and takes pictures with a headless Chromium:
the terminal at the end of the run, the search in MLflow's chart view and in its comparison, and Prefect's page of the run.
Another is of the page of ``gantry play``, with a small StyleGAN2 that is trained on the same digits: that family has the most
controls.

``python docs/generate/screenshots.py CHECKOUT`` takes those of the guide "Judge a generator" from a checkout in which two
versions were registered: MLflow's page of the first version, and the page of ``gantry compare``.
"""

import base64
import html
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

IMAGES = Path(__file__).parents[1] / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1280, 800
COLUMNS = 110
CHANGES = {
    "steps: 1000 ": "steps: 300 ",
    "trials: 0 ": "trials: 8\n  steps: 60\n  report_every: 30\n  samples: 64\n  # ",
    "samples: 500 ": "samples: 200 ",
    "real: 500 ": "real: 200 ",
}
"""Replacements that make the run of a new project short."""


STYLEGAN2 = (
    *(
        "--family",
        "stylegan2",
        "--model",
        "conditional=true",
        "--model",
        "channel_base=512",
        "--model",
        "channel_max=32",
    ),
    *("--model", "mapping_layers=2", "--model", "latent=32", "--model", "style=32", "--model", "r1=0.1"),
    *("--batch", "32", "--steps", "300", "--beta1", "0", "--beta2", "0.99", "--ema-half-life-kimg", "2"),
    *("--generator-lr", "0.0025", "--discriminator-lr", "0.0025"),
)
"""Settings of the small StyleGAN2."""
EDITS = {"seed": 3, "label": 0, "truncation": 0.7, "direction-0": 1, "direction-1": -1, "direction-3": 0.5}
"""Values of the controls of ``gantry play``."""


def main() -> None:
    """Take the screenshots of a new project, or those of the checkout that is named."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("make screenshots needs Chromium (or Chrome) on the PATH. On Debian: apt-get install chromium.")
    gantry = str(Path(sys.executable).with_name("gantry"))
    with tempfile.TemporaryDirectory(prefix="gantry-") as folder:
        if sys.argv[1:]:
            of_checkout(Path(sys.argv[1]).resolve(), gantry, browser, Path(folder))
        else:
            of_new_project(Path(folder) / "digits-project", gantry, browser, Path(folder))


def of_new_project(project: Path, gantry: str, browser: str, folder: Path) -> None:
    """Run the pipeline in a new project, and take the screenshots of the tutorial and of the guide to the search."""
    subprocess.run([gantry, "init", str(project)], check=True)
    params = project / "params.yaml"
    text = params.read_text(encoding="utf-8")
    for before, after in CHANGES.items():
        if before not in text:
            sys.exit(f"{params} has no '{before.strip()}'. Correct CHANGES in {__file__}.")
        text = text.replace(before, after, 1)
    params.write_text(text, encoding="utf-8")
    subprocess.run([gantry, "data", "fetch", "digits"], cwd=project, check=True)
    lines = run_in_terminal([gantry, "run"], project)
    with pages(gantry, project) as addresses, chromium(browser, folder / "profile") as tab:
        page = folder / "terminal.html"
        page.write_text(terminal_page(lines), encoding="utf-8")
        tab.open(page.as_uri(), wait=1)
        tab.save("terminal.png", height=60 + 20 * min(len(lines) + 1, 34))
        auth = password(project)
        take_search(tab, addresses["MLflow"], auth)
        take_prefect(tab, addresses["Prefect"], auth)
        generator = train_stylegan2(project / "data" / "prepared", project / "var" / "digits")
        with playing(gantry, generator) as address:
            take_play(tab, address)


def of_checkout(checkout: Path, gantry: str, browser: str, folder: Path) -> None:
    """Take the screenshots of the two newest versions that a checkout has registered."""
    name = json.loads((checkout / "outputs/register/registered.json").read_text(encoding="utf-8"))["name"]
    with pages(gantry, checkout) as addresses, chromium(browser, folder / "profile") as tab:
        auth, address = password(checkout), addresses["MLflow"]
        filters = {"filter": f"name='{name}'", "order_by": "version_number DESC", "max_results": "2"}
        found = ask(f"{address}/api/2.0/mlflow/model-versions/search?{urllib.parse.urlencode(filters)}", auth)
        second, first = (version["version"] for version in found["model_versions"])
        page = folder / "compared.html"
        subprocess.run(
            [gantry, "compare", f"{name}/{first}", f"{name}/{second}", "--html", page], cwd=checkout, check=True
        )
        tab.open(page.as_uri(), wait=2)
        tab.save("compare.png", height=2510)  # up to the grids
        sign_in(tab, address, auth)
        tab.open(f"{address}/#/models/{name}/versions/{first}", wait=20)
        tab.save("mlflow-version.png", height=1500)


def password(checkout: Path) -> str:
    """``user:password`` of the pages of a checkout."""
    return (checkout / "var" / "prefect" / "auth").read_text(encoding="ascii").strip()


def run_in_terminal(command: list[str], cwd: Path) -> list[str]:
    """Run ``command`` in a pseudo-terminal and return the lines that it shows at the end."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "34", "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=cwd, stdout=child, stderr=child, stdin=child, env=environment)
    os.close(child)
    output = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 1.0)
        try:
            piece = os.read(parent, 65536) if ready else b""
        except OSError:  # the last writer has ended
            break
        output += piece
        sys.stdout.buffer.write(piece)
        sys.stdout.flush()
        if not ready and process.poll() is not None:
            break
    os.close(parent)
    if process.wait():
        sys.exit(f"{' '.join(command)} ended with exit status {process.returncode}; see its output above.")
    return ["$ gantry run", *rendered(output.decode("utf-8", "replace"))]


def rendered(output: str) -> list[str]:
    """Lines as a terminal shows them, without colours: text after a carriage return replaces the line."""
    lines = []
    for line in output.replace("\r\n", "\n").split("\n"):
        line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.split("\r")[-1])
        lines.append(line[:COLUMNS].rstrip())
    return lines if lines[-1] else lines[:-1]


def terminal_page(lines: list[str]) -> str:
    """An HTML page that looks like a terminal."""
    text = html.escape("\n".join(lines[:1] + lines[1:][-33:]))
    style = "margin:0;padding:20px;background:#1e1e1e;color:#e0e0e0;font:15px/20px monospace;white-space:pre"
    return f'<!doctype html><meta charset="utf-8"><body style="{style}">{text}</body>'


@contextmanager
def pages(gantry: str, project: Path) -> Iterator[dict[str, str]]:
    """Run ``gantry ui``; yields the addresses of MLflow's and Prefect's pages."""
    process = subprocess.Popen([gantry, "ui"], cwd=project, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        found = {}
        for line in process.stdout:
            if match := re.match(r"(MLflow|Prefect): +(\S+)", line):
                found[match[1]] = match[2]
            if line.startswith("Ctrl-C"):
                break
        else:
            sys.exit("gantry ui ended before its servers answered; see its output above.")
        yield found
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


class Tab:
    """A browser page, controlled through the DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call ``method`` and return its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == number:
                if "error" in answer:
                    sys.exit(f"The browser rejects {method}: {answer['error']['message']}.")
                return answer["result"]

    def open(self, address: str, *, wait: float) -> None:
        """Open ``address`` and wait ``wait`` seconds for the page to render."""
        self.call("Page.navigate", url=address)
        time.sleep(wait)

    def evaluate(self, code: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def click(self, elements: str) -> None:
        """Click the first of ``elements``, a JavaScript array, as a mouse does."""
        place = self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])(({elements})[0].getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        time.sleep(3)

    def height(self) -> int:
        """Height of the whole page, pixels."""
        return int(self.evaluate("document.documentElement.scrollHeight"))

    def save(self, name: str, *, height: int = HEIGHT) -> None:
        """Save a screenshot as docs/images/NAME."""
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
        time.sleep(2)
        picture = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        (IMAGES / name).write_bytes(picture)
        print(f"docs/images/{name}: {len(picture) / 1000:.0f} kB")


@contextmanager
def chromium(browser: str, profile: Path) -> Iterator[Tab]:
    """A tab of a headless browser with its own profile."""
    options = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-port=0"]
    # Chromium has no sandbox for root. It opens only pages of this machine here.
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [browser, *options, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", "about:blank"],
        stderr=subprocess.DEVNULL,
    )
    try:
        note = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not note.is_file() or not note.read_text().strip():
            if time.monotonic() > deadline or process.poll() is not None:
                sys.exit(f"{browser} did not start. Run it with --headless to see the reason.")
            time.sleep(0.2)
        port = note.read_text().split()[0]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        listed = json.load(direct.open(f"http://127.0.0.1:{port}/json/list"))
        address = next(target["webSocketDebuggerUrl"] for target in listed if target["type"] == "page")
        with connect(address, max_size=None, proxy=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait()


def sign_in(tab: Tab, address: str, auth: str) -> None:
    """Sign in, as ``gantry ui --open`` does. The password goes only to the browser, never into arguments."""
    tab.open(address.replace("://", f"://{auth}@", 1) + "/gantry/sign-in", wait=8)
    # MLflow opens its assistant at the first visit, which takes a quarter of the page.
    for name, value in {
        "mlflow.assistant.panelOpen_v1": "false",
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    }.items():
        tab.evaluate(f"localStorage.setItem({json.dumps(name)}, {json.dumps(value)})")
    tab.open("about:blank", wait=1)


def ask(address: str, auth: str, body: dict[str, Any] | None = None) -> Any:
    """Send ``body``, if there is one, to a server of this project; returns its response as parsed JSON."""
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}",
    }
    sent = json.dumps(body).encode() if body is not None else None
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.load(direct.open(urllib.request.Request(address, sent, headers)))


def experiments(address: str, auth: str) -> list[str]:
    """The id of the experiment ``gantry``, in a list."""
    found = ask(f"{address}/api/2.0/mlflow/experiments/search", auth, {"max_results": 10})["experiments"]
    return [each["experiment_id"] for each in found if each["name"] == "gantry"]


def take_search(tab: Tab, address: str, auth: str) -> None:
    """Take the screenshots of the trials: charts and grids, parallel coordinates, and a scatter plot."""
    (experiment,) = experiments(address, auth)
    trials = {"experiment_ids": [experiment], "max_results": 50, "filter": "tags.`gantry.stage` = 'trial'"}
    runs = ask(f"{address}/api/2.0/mlflow/runs/search", auth, trials)["runs"]
    names = json.dumps([run["info"]["run_id"] for run in runs], separators=(",", ":"))
    sign_in(tab, address, auth)
    shown = urllib.parse.quote(trials["filter"])
    tab.open(f"{address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&searchFilter={shown}", wait=20)
    tab.click(
        "[...document.querySelectorAll('[data-component-id*=runnamecellrenderer]')]"
    )  # open the run that has the trials
    time.sleep(5)
    tab.save("mlflow-trials.png", height=1000)
    tab.open(f'{address}/#/compare-runs?runs={names}&experiments=["{experiment}"]', wait=20)
    tab.save("mlflow-comparison.png", height=700)
    tab.click("[...document.querySelectorAll('[role=tab]')].filter(one => one.innerText === 'Scatter Plot')")
    tab.save("mlflow-scatter.png", height=700)


def take_prefect(tab: Tab, address: str, auth: str) -> None:
    """Take the screenshot of the page of the newest flow run."""
    runs = ask(f"{address}/api/flow_runs/filter", auth, {"sort": "START_TIME_DESC", "limit": 1})
    sign_in(tab, address, auth)
    tab.open(f"{address}/runs/flow-run/{runs[0]['id']}", wait=20)
    tab.save("prefect-run.png")


def train_stylegan2(data: Path, out: Path) -> Path:
    """Train a small StyleGAN2 on prepared pictures; returns the folder ``out``."""
    command = [sys.executable, "-m", "gan_core.train", "--data", str(data), "--out", str(out), *STYLEGAN2]
    subprocess.run(command, check=True)
    return out


@contextmanager
def playing(gantry: str, model: Path) -> Iterator[str]:
    """Run ``gantry play``; yields the address of its page."""
    process = subprocess.Popen([gantry, "play", str(model)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        first = process.stdout.readline()
        if not first:
            sys.exit("gantry play ended before its page was there; see its output above.")
        yield first.split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def take_play(tab: Tab, address: str) -> None:
    """Take the screenshot of the page of ``gantry play``, with some edits."""
    tab.open(address, wait=5)
    for name, value in EDITS.items():
        event = "change" if name in ("seed", "label") else "input"
        found = f"document.getElementById({name!r})"
        script = f"{found}.value = {value!r}; {found}.dispatchEvent(new Event({event!r}))"
        tab.call("Runtime.evaluate", expression=script)
    tab.save("play.png", height=870)


if __name__ == "__main__":
    main()
