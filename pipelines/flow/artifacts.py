"""Prefect artifacts of a run, made from its result files."""

import base64
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gan_core.files import read_json
from gan_core.metrics.protocol import baseline_name
from pipelines.registry.markdown import escape_markdown, link_target
from pipelines.runtime.checkout import METRICS, NEIGHBOURS, REGISTERED, SAMPLES, Checkout
from pipelines.runtime.redaction import redact_credentials

LOG = logging.getLogger(__name__)

MAX_PICTURE_BYTES = 2 << 20
"""A larger picture gets no artifact: pictures are embedded in artifacts, which the server keeps in its database."""


def publish_artifacts(checkout: Checkout, outs: Iterable[str]) -> list[str]:
    """Make Prefect artifacts from the result files among a stage's outs; returns the keys of the new artifacts.

    Call it in a task, so that the artifacts belong to the task's run. A missing or invalid file gives a warning in the log and
    no artifact; it does not fail the run. A picture that the newest artifact already shows is not stored again.
    """
    made = []
    for out in outs:
        for place, make in MAKERS.items():
            path = checkout.out(place)
            if (place == out or place.startswith(f"{out}/")) and path.is_file():
                try:
                    if (key := make(path)) is not None:
                        made.append(key)
                except Exception as error:  # an invalid file or a failing server must not fail the stage
                    LOG.warning("No artifact from %s: %s.", path, str(error) or type(error).__name__)
    return made


def _samples(path: Path) -> str | None:
    return _picture(path, "samples", "Generated pictures")


def _neighbours(path: Path) -> str | None:
    return _picture(path, "neighbours", "Generated pictures that are closest to a real one, each beside it")


def _picture(path: Path, key: str, description: str) -> str | None:
    from prefect.artifacts import create_image_artifact

    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, and an artifact may have at most {MAX_PICTURE_BYTES}")
    content = base64.b64encode(path.read_bytes()).decode()
    data = f"data:image/png;base64,{content}"
    # The server would keep hundreds of kilobytes for every run, even if all stages were cached.
    if data == _newest(key):
        LOG.debug("The artifact '%s' already shows these pictures: %s.", key, path)
        return None
    create_image_artifact(data, key=key, description=description)
    return key


def _newest(key: str) -> Any:
    """The data of the newest artifact of ``key`` on the server; None if there is none."""
    import httpx
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        try:
            return client.request("GET", "/artifacts/{key}/latest", path_params={"key": key}).json()["data"]
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise


def _figures(path: Path) -> str:
    from prefect.artifacts import create_table_artifact

    measured = read_json(path)
    objective = {name: measured["fid"].get(name) for name in ("value", "low", "high", "stamp")}
    figures = [pair for pair in flatten({"fid": objective}) if pair[1] is not None]
    for figure in measured.get("figures", ()):
        name = f"{figure['name']} {figure['protocol'].get('direction') or ''}".strip()
        figures += [(name, figure["value"])]
        if figure.get("baseline") is not None:
            figures += [(f"{name}, {baseline_name(figure['name'])}", figure["baseline"])]
    rows = [
        # Prefect's page renders cells as Markdown.
        {
            "figure": escape_markdown(name),
            "value": f"{value:.6g}" if isinstance(value, float) else escape_markdown(value),
        }
        for name, value in figures
    ]
    create_table_artifact(rows, key="figures", description="Measured figures, each with its protocol")
    return "figures"


def _registered(path: Path) -> str:
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    registered = json.loads(redact_credentials(path.read_text(encoding="utf-8")))
    what = escape_markdown(f"{registered.get('name', 'model')} version {registered.get('version', '?')}")
    url = link_target(registered.get("run_url"))
    if url:
        create_link_artifact(url, link_text=f"{what}: its MLflow run", key="mlflow-run", description="The MLflow run")
        return "mlflow-run"
    text = json.dumps(registered, indent=2)
    create_markdown_artifact(f"Registered **{what}**.\n\n```json\n{text}\n```", key="registered")
    return "registered"


MAKERS: dict[str, Callable[[Path], str | None]] = {
    SAMPLES: _samples,
    NEIGHBOURS: _neighbours,
    METRICS: _figures,
    REGISTERED: _registered,
}


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested mappings into pairs of dotted name and value, in order."""
    if not isinstance(values, dict):
        return [(prefix, values)]
    return [
        pair for name, value in values.items() for pair in flatten(value, f"{prefix}.{name}" if prefix else str(name))
    ]
