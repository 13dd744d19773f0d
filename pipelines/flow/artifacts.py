"""What a run shows in Prefect's UI, made from whatever result files are there."""

import base64
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gan_core.files import read_json
from pipelines.registry.markdown import escape_markdown, link_target
from pipelines.runtime.checkout import METRICS, REGISTERED, SAMPLES, Checkout
from pipelines.runtime.redaction import redact_credentials

LOG = logging.getLogger(__name__)

LARGEST_PICTURE = 2 << 20
"""Bytes. A picture is embedded in its artifact; the server keeps artifacts in its database."""


def publish_artifacts(checkout: Checkout, outs: Iterable[str]) -> list[str]:
    """Make Prefect artifacts from the result files among a stage's outs; returns the keys of those made.

    To be called in a task: the artifacts belong to its run. A file that is absent or is not what it should be makes no
    artifact and a line in the log; a run does not fail for want of a picture. A picture that the newest artifact of its key
    already shows is not kept a second time: the log says so.
    """
    made = []
    for out in outs:
        for place, make in MAKERS.items():
            path = checkout.out(place)
            if (place == out or place.startswith(f"{out}/")) and path.is_file():
                try:
                    if (key := make(path)) is not None:
                        made.append(key)
                except Exception as error:  # the file, or Prefect's server: neither is worth the stage that has run
                    LOG.warning("No artifact from %s: %s.", path, str(error) or type(error).__name__)
    return made


def _picture(path: Path) -> str | None:
    from prefect.artifacts import create_image_artifact

    if path.stat().st_size > LARGEST_PICTURE:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than the {LARGEST_PICTURE} that are embedded")
    content = base64.b64encode(path.read_bytes()).decode()
    data = f"data:image/png;base64,{content}"
    # Hundreds of kilobytes, which the server keeps for each run, also for the many that found everything cached.
    if data == _newest("samples"):
        LOG.debug("The artifact 'samples' shows these pictures already: %s.", path)
        return None
    create_image_artifact(data, key="samples", description="Generated pictures")
    return "samples"


def _newest(key: str) -> Any:
    """What the newest artifact of ``key`` on the server holds; None where there is none."""
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
        figures += [(f"{name}, untranslated source", figure["baseline"])] if figure.get("baseline") is not None else []
    rows = [
        # The page takes what it finds in a cell for Markdown.
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
    SAMPLES: _picture,
    METRICS: _figures,
    REGISTERED: _registered,
}


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as pairs of dotted name and value, in their order."""
    if not isinstance(values, dict):
        return [(prefix, values)]
    return [
        pair for name, value in values.items() for pair in flatten(value, f"{prefix}.{name}" if prefix else str(name))
    ]
