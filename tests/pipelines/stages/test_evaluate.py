"""What the evaluate stage tells of its figures: to DVC, to MLflow, each under a name that it takes."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from gan_core.files import write_json
from gan_core.metrics.assess import Assessment
from gan_core.metrics.protocol import Figure
from pipelines.evaluation.measure import metric_values, metrics_json, mlflow_metric_name
from tests.pipelines.registry.conftest import PROTOCOL
from tests.pipelines.toy import dvc, make_project
from tests.pipelines.tracking.database import copy_of, make_template


def figure(name: str, value: float, direction: str, baseline: float | None = None) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, metric=name, direction=direction)
    return Figure(name=name, value=value, protocol=protocol, generator_digest="f" * 64, baseline=baseline)


def assessment(*domains: str) -> Assessment:
    """Figures of each of ``domains`` to the next: FID 1, 2, ..., and what the trivial answer gets, ten times as much."""
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
    assert shown["values"] == {"fid": 0.5, "fid.trivial": 5.0, "fid_cat_to_dog": 1, "fid_cat_to_dog.trivial": 10.0}
    assert shown["fid"]["value"] == 0.5


def test_mlflow_takes_the_figures_of_domains_with_any_names(
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


def test_names_that_become_one_end_in_a_number() -> None:
    """With what stands beside them; one that a person would read stays as it is."""
    assert metric_values(assessment("a+b", "c", "a&b", "c", "a-b", "c")) == {
        "fid": 0.5,
        "fid.trivial": 5.0,
        "fid_a-b_to_c": 1,
        "fid_a-b_to_c.trivial": 10,
        "fid_c_to_a-b": 2,
        "fid_c_to_a-b.trivial": 20,
        "fid_a-b_to_c-2": 3,
        "fid_a-b_to_c-2.trivial": 30,
        "fid_c_to_a-b-2": 4,
        "fid_c_to_a-b-2.trivial": 40,
        "fid_a-b_to_c-3": 5,
        "fid_a-b_to_c-3.trivial": 50,
    }


def test_a_name_that_can_be_tracked_stays_as_it_is() -> None:
    assert mlflow_metric_name("fid_a.b-c/d: 1") == "fid_a.b-c/d: 1"
