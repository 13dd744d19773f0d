"""Prefect artifacts of a run."""

import base64
import json
import logging
import os
import re
import urllib.request

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from pipelines.flow import artifacts
from pipelines.flow.artifacts import flatten, publish_artifacts
from pipelines.runtime.checkout import Checkout

OUTS = ["outputs/evaluate/samples.png", "outputs/evaluate/metrics.json", "outputs/register"]


def artifact(api: str, key: str) -> str:
    """The data of the newest artifact of that key, as Prefect's page gets it."""
    known = base64.b64encode(os.environ["PREFECT_API_AUTH_STRING"].encode()).decode()
    request = urllib.request.Request(f"{api}/artifacts/{key}/latest", headers={"Authorization": f"Basic {known}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["data"]


def test_nested_figures_become_dotted_names_in_order():
    assert flatten({"fid": {"value": 40.5, "protocol": {"features": 2048}}, "n": 1}) == [
        ("fid.value", 40.5),
        ("fid.protocol.features", 2048),
        ("n", 1),
    ]


@pytest.mark.parametrize("metrics", ["{not json", '{"figures": [{"value": 1}]}', "[]"])
def test_missing_and_invalid_files_make_no_artifact_and_do_not_fail(tmp_path, monkeypatch, caplog, metrics):
    assert publish_artifacts(Checkout.at(tmp_path), OUTS) == []
    (tmp_path / "outputs" / "evaluate").mkdir(parents=True)
    (tmp_path / "outputs" / "evaluate" / "metrics.json").write_text(metrics)
    (tmp_path / "outputs" / "evaluate" / "samples.png").write_bytes(bytes(100))
    monkeypatch.setattr(artifacts, "MAX_PICTURE_BYTES", 99)
    with caplog.at_level(logging.WARNING, logger="pipelines"):
        assert publish_artifacts(Checkout.at(tmp_path), OUTS) == []
    assert "samples.png: it has 100 bytes" in caplog.text
    assert "metrics.json" in caplog.text


def test_an_unreachable_server_does_not_fail_a_stage(tmp_path, monkeypatch, caplog):
    (tmp_path / "outputs" / "evaluate").mkdir(parents=True)
    (tmp_path / "outputs" / "evaluate" / "samples.png").write_bytes(b"picture")

    def away(path):
        raise ConnectionError("All connection attempts failed")

    monkeypatch.setattr(artifacts, "MAKERS", {"outputs/evaluate/samples.png": away})
    with caplog.at_level(logging.WARNING, logger="pipelines"):
        assert publish_artifacts(Checkout.at(tmp_path), OUTS) == []
    assert "All connection attempts failed" in caplog.text


@pytest.mark.prefect
def test_a_runs_artifacts_are_the_picture_the_figures_and_the_link(prefect_api, tmp_path):
    from prefect import flow

    def shown(key: str) -> str:
        return artifact(prefect_api, key)

    for folder in ("evaluate", "register", "train"):
        (tmp_path / "outputs" / folder).mkdir(parents=True)
    picture = tmp_path / "outputs" / "evaluate" / "samples.png"
    Image.new("L", (8, 8), 100).save(picture)
    figures = {
        "fid": {"value": 40.1234567, "stamp": "FID-600", "low": None, "generator_digest": "f" * 64},
        "figures": [{"name": "fid", "protocol": {"direction": "a -> b"}, "value": 41.5, "baseline": 90.0}],
        "values": {"fid/a_to_b": 41.5, "fid/a_to_b.trivial": 90.0},
    }
    (tmp_path / "outputs" / "evaluate" / "metrics.json").write_text(json.dumps(figures))
    registered = {"name": "gantry", "version": "3", "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/2"}
    (tmp_path / "outputs" / "register" / "registered.json").write_text(json.dumps(registered))

    @flow
    def shows(outs: list[str]) -> list[str]:
        return publish_artifacts(Checkout.at(tmp_path), outs)

    # Files that a stage does not own are not its to show.
    assert shows(["outputs/train"]) == []
    assert shows(OUTS) == ["samples", "figures", "mlflow-run"]
    content = base64.b64encode(picture.read_bytes()).decode()
    assert shown("samples") == f"data:image/png;base64,{content}"
    assert json.loads(shown("figures")) == [
        {"figure": "fid.value", "value": "40.1235"},
        {"figure": "fid.stamp", "value": "FID-600"},
        {"figure": "fid a -> b", "value": "41.5"},
        {"figure": "fid a -> b, untranslated source", "value": "90"},
    ]
    assert shown("mlflow-run") == f"[gantry version 3: its MLflow run]({registered['run_url']})"


@pytest.mark.prefect
def test_names_of_classes_and_addresses_are_escaped(prefect_api, tmp_path):
    from prefect import flow

    (tmp_path / "outputs" / "evaluate").mkdir(parents=True)
    (tmp_path / "outputs" / "register").mkdir(parents=True)
    direction = "<script>x</script> -> ![](http://example.org/a.png)"
    figures = {
        "fid": {"value": 40.0, "stamp": direction},
        "figures": [{"name": "fid", "protocol": {"direction": direction}, "value": 1.0}],
    }
    (tmp_path / "outputs" / "evaluate" / "metrics.json").write_text(json.dumps(figures))
    registered = {"name": "gantry", "version": "3](http://a) ![", "run_url": "javascript:alert(1)"}
    (tmp_path / "outputs" / "register" / "registered.json").write_text(json.dumps(registered))

    @flow
    def shows() -> list[str]:
        return publish_artifacts(Checkout.at(tmp_path), OUTS)

    assert shows() == ["figures", "registered"]
    reader, allowed = MarkdownIt("commonmark", {"html": True}), {"p", "strong", "pre", "code"}
    cells = [cell for row in json.loads(artifact(prefect_api, "figures")) for cell in row.values()]
    pages = [artifact(prefect_api, "registered"), *cells]
    assert len(pages) > 5
    for page in pages:
        assert set(re.findall(r"<(\w+)", reader.render(page))) <= allowed


@pytest.mark.prefect
def test_a_picture_is_stored_again_only_if_it_has_changed(prefect_api, tmp_path):
    """Otherwise every nightly run with only cached stages would add hundreds of kilobytes to the database."""
    from prefect import flow

    (tmp_path / "outputs" / "evaluate").mkdir(parents=True)
    picture = tmp_path / "outputs" / "evaluate" / "samples.png"

    @flow
    def shows() -> list[str]:
        return publish_artifacts(Checkout.at(tmp_path), OUTS)

    def shown() -> bytes:
        return base64.b64decode(artifact(prefect_api, "samples").partition(",")[2])

    for number, published in ((11, ["samples"]), (11, []), (12, ["samples"]), (12, []), (11, ["samples"])):
        Image.new("L", (8, 8), number).save(picture)
        assert shows() == published
        assert shown() == picture.read_bytes()
