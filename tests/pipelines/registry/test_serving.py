"""A registered version served by ``mlflow models serve`` answers JSON requests with PNGs."""

import base64
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.inference.generator import load_generator
from pipelines.registry.trace import trace
from pipelines.runtime.checkout import Checkout

NUMBERS = ("9" * 4300, "1e400", "-1e300", "-Infinity", '"x"', "[1]", "{}")
"""Values in JSON that no generator can take. MLflow itself answers more than 4,300 digits with a status of 500."""


def post(port: int, body: dict | str) -> tuple[int, dict]:
    """Send an invocation, as a value or as JSON; returns the HTTP status and the decoded response."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        (body if isinstance(body, str) else json.dumps(body)).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextmanager
def serving(model_uri: str, tracking_uri: str, directory: Path):
    """Run ``mlflow models serve`` and end it with all its processes; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    # The command starts another command by name.
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = directory / "serve.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.end_to_end
def test_a_version_is_served_over_http(register, uri, generator_dir, tmp_path):
    register()
    with serving("models:/digits@challenger", uri, tmp_path) as port:
        expected = load_generator(generator_dir).sample(2, 5).numpy()[:, 0]
        rows = {
            "dataframe_split": {"columns": ["n", "seed"], "data": [[2, 5]]},
            "dataframe_records": [{"n": 2, "seed": 5}],
        }
        for form, body in rows.items():
            status, answer = post(port, {form: body})
            assert status == 200, answer
            predictions = answer["predictions"]
            assert [(row["seed"], row["index"], row["row"]) for row in predictions] == [(5, 0, 0), (5, 1, 0)]
            for row, picture in zip(predictions, expected, strict=True):
                shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["png"]))))
                np.testing.assert_array_equal(shown, picture)
        (tmp_path / "served.png").write_bytes(base64.b64decode(predictions[1]["png"]))
        found = trace(str(tmp_path / "served.png"), tracking_uri=uri, checkout=Checkout.at(tmp_path))
        assert (found.kind, found.picture["seed"], found.picture["index"]) == ("picture", 5, 1)
        assert [version.version for version in found.versions] == ["digits/1"]
        status, answer = post(port, {"dataframe_records": [{"n": 0}]})
        assert status == 400
        assert "n is 0; it must be 1 or more" in answer["message"]
        status, answer = post(port, {"dataframe_records": [{"n": 1, "seed": 0, "label": 2}]})
        assert status == 400
        assert "no label 2" in answer["message"]
        for column, number in itertools.product(("n", "seed", "truncation", "label"), NUMBERS):
            rows = {"n": "1", column: number}
            told = ", ".join(f'"{name}": {value}' for name, value in rows.items())
            status, answer = post(port, f'{{"dataframe_records": [{{{told}}}]}}')
            assert status == 400, (column, number[:20], answer)
