"""Requests over HTTP against calls of the bare generator: the same pictures, from ``mlflow models serve``."""

import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch

from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import load_generator, save_generator
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from pipelines.registry.model_folder import write_model
from tests.bench import Row
from tests.pipelines.registry.conftest import PROTOCOL
from tests.pipelines.registry.test_serving import serving

COUNTS = {1: 60, 8: 30, 32: 15}
"""Pictures in a request, and number of requests."""
TARGET = 0.8
"""Share of the bare rate that 32 pictures over HTTP reach."""


def rows() -> list[Row]:
    """Measure a DCGAN of 64x64 pixels with the paper's widths."""
    shape = ImageShape(channels=3, height=64, width=64)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        torch.manual_seed(0)
        family = build_family("dcgan", family_config("dcgan", {"init": "he"}), shape)
        family.update_statistics({"generator": family.networks["generator"]}, batches=1)
        save_generator(place / "generator", family=family, extra={"step": 1, "dataset": "d"})
        figure = Figure(
            name="fid", value=1.0, protocol=PROTOCOL, generator_digest=generator_digest(place / "generator")
        )
        write_model(
            place / "model",
            generator_dir=place / "generator",
            name="bench",
            figure=figure.as_dict(),
            figures=[],
            tags={},
            card={},
            example=None,
            model_id="m-1",
            run_id=None,
        )
        generator = load_generator(place / "generator", choose_device("auto"))
        found = []
        with serving(str(place / "model"), f"sqlite:///{place}/mlflow.db", place) as port:
            for n in COUNTS:
                # In turns, so that both see the same machine.
                bare, http = [], []
                for request in range(COUNTS[n] + 3):
                    bare.append(_seconds(lambda n=n, request=request: generator.sample(n, request)))
                    http.append(_seconds(lambda n=n, request=request: _ask(port, n, request)))
                bare, http = bare[3:], http[3:]
                ratio = statistics.median(bare) / statistics.median(http)
                note = f"p50/p99 over HTTP {_said(http)}, bare generator {_said(bare)}"
                found.append(
                    Row(name=f"serving {n} pictures", ratio=ratio, target=TARGET if n == 32 else None, note=note)
                )
    return found


def _ask(port: int, n: int, seed: int) -> None:
    body = json.dumps({"dataframe_records": [{"n": n, "seed": seed}]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(json.load(answer)["predictions"]) == n


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _said(times: list[float]) -> str:
    ordered = sorted(times)
    return f"{1000 * statistics.median(ordered):.0f}/{1000 * ordered[int(0.99 * (len(ordered) - 1) + 0.5)]:.0f} ms"
