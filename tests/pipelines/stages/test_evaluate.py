"""The evaluate stage writes its figures for DVC and MLflow under valid names."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gan_core.files import write_json
from gan_core.metrics.assess import Assessment
from gan_core.metrics.copying import ClosestPairs, copying
from gan_core.metrics.measurement import Findings
from gan_core.metrics.protocol import Figure
from pipelines.evaluation.measure import (
    describe_copying,
    describe_figure,
    metric_values,
    metrics_json,
    mlflow_metric_name,
    shares_csv,
)
from pipelines.evaluation.sheet import draw_neighbours
from pipelines.registry.inputs import objective_of, read_measured
from tests.pipelines.registry.conftest import PROTOCOL
from tests.pipelines.toy import dvc, make_project
from tests.pipelines.tracking.database import copy_of, make_template


def figure(name: str, value: float, direction: str, baseline: float | None = None) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, metric=name, direction=direction)
    return Figure(name=name, value=value, protocol=protocol, generator_digest="f" * 64, baseline=baseline)


def assessment(*domains: str) -> Assessment:
    """Figures from each of ``domains`` to the next: FID 1, 2, ..., and ten times that for the trivial baseline."""
    directions = [f"{of} -> {to}" for of, to in itertools.pairwise(domains)]
    objective = figure("fid", 0.5, f"mean of {len(directions)} directions", 5.0)
    of_each = [figure("fid", n, direction, 10.0 * n) for n, direction in enumerate(directions, 1)]
    return Assessment(objective, (objective, *of_each))


def test_dvc_shows_the_value_of_every_figure(tmp_path: Path) -> None:
    stages = "stages: {e: {cmd: 'true', metrics: [{metrics.json: {cache: false}}]}}"
    project = make_project(tmp_path, {"dvc.yaml": stages})
    measured = assessment("cat", "dog")
    write_json(project / "metrics.json", metrics_json(measured))
    told = json.loads(dvc("metrics", "show", "--json", cwd=project).stdout)
    shown = told[""]["data"]["metrics.json"]["data"]
    assert shown["values"] == {"fid": 0.5, "fid.trivial": 5.0, "fid/cat_to_dog": 1, "fid/cat_to_dog.trivial": 10.0}
    assert shown["fid"]["value"] == 0.5


def test_dvc_plots_the_figures_that_share_an_axis(tmp_path: Path) -> None:
    plots = yaml.safe_load(Path("dvc.yaml").read_text())["plots"]
    (shares,) = (plot for plot in plots if isinstance(plot, dict) and "shares.csv" in json.dumps(plot))
    project = make_project(tmp_path, {"dvc.yaml": yaml.safe_dump({"plots": [shares]})})
    for others, expected in (
        ([figure("recall", 0.4, ""), figure("kid", 0.01, "")], [("recall", "0.4")]),
        ([], [("none is measured", "0")]),
    ):
        (project / "outputs/evaluate").mkdir(parents=True, exist_ok=True)
        measured = Assessment(figure("fid", 9.0, ""), (figure("fid", 9.0, ""), *others))
        (project / "outputs/evaluate/shares.csv").write_text(shares_csv(measured))
        shown = json.loads(dvc("plots", "show", "--json", cwd=project).stdout)
        assert "errors" not in shown
        ((bars,),) = shown["data"].values()
        assert [(row["figure"], row["share"]) for row in bars["content"]["data"]["values"]] == expected


def test_missing_figures_and_copies_are_in_the_file_and_in_the_output() -> None:
    distances, reference = np.r_[np.zeros(30), np.ones(10)][None], np.linspace(0.5, 2, 40)[None]
    copies = copying(distances, reference, held_out=False, training_count=40, training_total=60)
    whole = assessment("cat", "dog")
    measured = dataclasses.replace(whole, findings=Findings(omitted={"recall": "too few"}, copying=copies))
    written = json.loads(json.dumps(metrics_json(measured)))
    assert written["not_measured"] == {"recall": "too few"}
    assert (written["copying"]["training_count"], written["copying"]["training_total"]) == (40, 60)
    assert written["copying"]["p_value"] < 1e-6
    assert "estimate" not in written["copying"], "its value and interval are the figure memorisation"
    told = describe_copying(copies)
    assert told.startswith(
        "memorisation: 75.0% of the generated pictures are as near to a training picture as the nearest 5% of the training "
        "pictures, each against the others. 40 of 60 training pictures were searched. p = "
    )
    assert "COPIES" not in told, "without an interval there is no verdict"


def test_the_baseline_of_a_figure_is_named() -> None:
    line = describe_figure(dataclasses.replace(figure("memorisation", 0.3, ""), baseline=0.05))
    assert line == "memorisation: 0.3000; without copying 0.0500, which is no worse"


def test_neighbours_are_drawn_in_pairs(tmp_path: Path) -> None:
    dark, bright = torch.zeros(6, 1, 32, 32, dtype=torch.uint8), torch.full((6, 1, 32, 32), 200, dtype=torch.uint8)
    draw_neighbours(tmp_path / "n.png", ClosestPairs(dark, bright, np.zeros(6)))
    with Image.open(tmp_path / "n.png") as sheet:
        row = np.asarray(sheet)[sheet.height // 4]
    changes = row[np.r_[True, row[1:] != row[:-1]]].tolist()
    assert changes == [255, 0, 255, 200] * 4 + [255], "eight pictures in a row, generated and real in turns"


def test_mlflow_accepts_the_figures_of_domains_with_any_names(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from mlflow import MlflowClient

    uri = copy_of(make_template(tmp_path_factory), tmp_path)
    client = MlflowClient(uri, uri)
    run = client.create_run(client.create_experiment("any")).info.run_id
    domains = ("dog & cat", "it's", "a+b", "a-b", "a//b", "..", "x/../y", "größe", "/", "l" * 400, "[%]", "\u2192")
    measured = assessment(*domains)
    values = metric_values(measured)
    for name, value in values.items():
        client.log_metric(run, name, value)
    assert client.get_run(run).data.metrics == values
    assert sorted(values.values()) == sorted([0.5, 5, *range(1, len(domains)), *range(10, 10 * len(domains), 10)])


def test_names_that_would_collide_end_in_a_number() -> None:
    """With their baselines. A valid name does not change."""
    assert metric_values(assessment("a+b", "c", "a&b", "c", "a-b", "c")) == {
        "fid": 0.5,
        "fid.trivial": 5.0,
        "fid/a-b_to_c": 1,
        "fid/a-b_to_c.trivial": 10,
        "fid/c_to_a-b": 2,
        "fid/c_to_a-b.trivial": 20,
        "fid/a-b_to_c-2": 3,
        "fid/a-b_to_c-2.trivial": 30,
        "fid/c_to_a-b-2": 4,
        "fid/c_to_a-b-2.trivial": 40,
        "fid/a-b_to_c-3": 5,
        "fid/a-b_to_c-3.trivial": 50,
    }


def test_a_valid_name_does_not_change() -> None:
    assert mlflow_metric_name("fid/a.b-c/d: 1") == "fid/a.b-c/d: 1"


def test_an_objective_other_than_the_fid_is_in_the_results(tmp_path: Path) -> None:
    fid, kid = figure("fid", 0.5, ""), figure("kid", 0.01, "")
    write_json(tmp_path / "metrics.json", metrics_json(Assessment(kid, (fid, kid))))
    measured = read_measured(tmp_path / "metrics.json")
    assert measured["fid"]["value"] == 0.5
    assert objective_of(measured)["name"] == "kid"
    write_json(tmp_path / "metrics.json", metrics_json(Assessment(fid, (fid, kid))))
    assert objective_of(read_measured(tmp_path / "metrics.json"))["name"] == "fid"
