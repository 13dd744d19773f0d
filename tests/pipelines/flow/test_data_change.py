"""A scheduled run trains only if the data has changed by more than a bound since the champion, or if something else has."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from gan_core.errors import SettingsError
from pipelines.flow.data_change import Verdict, judge, judge_change, other_changes
from pipelines.flow.workspace import Workspace
from pipelines.registry.register import Registered
from pipelines.runtime.checkout import PREPARED, Checkout
from pipelines.settings.flow import TrainAbove, load_flow_settings
from tests.datasets import blobs, write_prepared
from tests.pipelines.registry.conftest import generator_dir, register  # noqa: F401  fixtures
from tests.pipelines.toy import dvc, environment, make_project

DVC_YAML = """
stages:
  ingest:
    cmd: python prepare_data.py
    deps: [raw]
    outs: [data/prepared]
  tune:
    cmd: python -c "open('best.json', 'w').write('{}')"
    deps: [data/prepared, model_code.py]
    params: [model]
    outs: [best.json]
  train:
    cmd: python -c "open('out', 'w').write('x')"
    deps: [data/prepared, model_code.py]
    params: [model, train]
    outs: [out]
"""
COPY = "import shutil; shutil.copytree('raw', 'data/prepared', dirs_exist_ok=True)\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose stages have run on 20 pictures."""
    params = {"model": {"width": 8}, "train": {"steps": 5, "lr": 5e-5}, "register": {"name": "digits"}}
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": yaml.safe_dump(params),
        "prepare_data.py": COPY,
        "model_code.py": "one\n",
    }
    root = tmp_path_factory.mktemp("change") / "project"
    write_prepared(root / "raw", blobs(30)[:20])
    make_project(root, files)
    dvc("repro", "-q", cwd=root)
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path) -> Checkout:
    return Checkout.at(shutil.copytree(template, tmp_path / "project"), {})


def grow(checkout: Checkout, count: int) -> None:
    shutil.rmtree(checkout.prepared)
    write_prepared(checkout.root / PREPARED, blobs(30)[:count])


def verdict(checkout: Checkout, uri: str, **bounds: Any) -> Verdict:
    place = Workspace(checkout=checkout, environment=environment(GANTRY_TRACKING_URI=uri))
    return judge_change(place, TrainAbove(**bounds), on_line=print)


def test_the_data_is_compared_with_that_of_the_champion(
    checkout: Checkout,
    register: Callable[..., Registered],  # noqa: F811
    uri: str,
) -> None:
    first = verdict(checkout, uri, share=0.2)
    assert first == Verdict(train=True, reason="digits has no version yet, so there is no data to compare with")
    register(card={"dvc.lock": checkout.dvc_lock})
    grow(checkout, 24)
    write_prepared(checkout.root / "digits" / "1", blobs(30)[20:])  # a folder with the name of the version
    some = verdict(checkout, uri, share=0.2)
    assert not some.train
    assert some.reason == "the change of the data since digits/1 is within the bounds: share 0.2 (bound 0.2)"


def test_a_run_trains_if_the_first_registration_was_killed(checkout: Checkout, uri: str, tmp_path: Path) -> None:
    """It leaves a registered model without versions, or not even a database."""
    MlflowClient(uri, uri).create_registered_model("digits")
    for place in (uri, f"sqlite:///{tmp_path / 'none.db'}"):
        assert verdict(checkout, place, share=0.2).reason.startswith("digits has no version yet")


def test_a_run_trains_if_the_data_cannot_be_compared(
    checkout: Checkout,
    register: Callable[..., Registered],  # noqa: F811
    uri: str,
) -> None:
    register(card={"dvc.lock": checkout.dvc_lock})
    shutil.rmtree(checkout.root / ".dvc" / "cache")
    found = verdict(checkout, uri, share=0.2)
    assert found.train
    assert (
        "the data cannot be compared with that of digits/1: The prepared data of digits/1 is not in DVC's"
        in found.reason
    )


def test_another_change_than_that_of_the_data_is_named(checkout: Checkout) -> None:
    lock = checkout.dvc_lock.read_text()
    assert other_changes(lock, checkout) == ""
    grow(checkout, 30)
    assert other_changes(lock, checkout) == ""
    (checkout.root / "model_code.py").write_text("two\n")
    assert other_changes(lock, checkout) == "model_code.py"
    (checkout.root / "model_code.py").write_text("one\n")
    checkout.params.write_text(checkout.params.read_text().replace("steps: 5", "steps: 6"))
    assert other_changes(lock, checkout) == "train in params.yaml"
    assert other_changes("stages: {}", checkout) == "stage tune"


def difference(**changes: Any) -> dict[str, Any]:
    figures = [{"name": "fid", "value": 1.5}, {"name": "kid", "value": 0.1}, {"name": "coverage", "value": 0.9}]
    return {"same": False, "share": 0.1, "figures": figures, "omitted": {}, **changes}


@pytest.mark.parametrize(
    ("bounds", "train", "told"),
    [
        ({"share": 0.1}, False, "is within the bounds: share 0.1 (bound 0.1)"),
        ({"share": 0.09}, True, "exceeds a bound: share 0.1 (bound 0.09)"),
        ({"share": 0.2, "fid": 1.0}, True, "share 0.1 (bound 0.2), fid 1.5 (bound 1)"),
        ({"uncovered": 0.2}, False, "uncovered 0.1 (bound 0.2)"),
        ({"uncovered": 0.05}, True, "uncovered 0.1 (bound 0.05)"),
    ],
)
def test_one_exceeded_bound_is_enough(bounds: dict[str, float], train: bool, told: str) -> None:
    found = judge(difference(), TrainAbove(**bounds), "digits/1")
    assert found.train is train
    assert told in found.reason


def test_the_same_data_is_no_change() -> None:
    same = difference(same=True, share=0.0)
    assert judge(same, TrainAbove(share=0.0), "digits/1") == Verdict(train=False, reason="the data is that of digits/1")


def test_a_figure_that_was_not_measured_counts_as_a_change() -> None:
    lacking = difference(figures=[], omitted={"coverage": "it needs at least 6 pictures"})
    found = judge(lacking, TrainAbove(uncovered=0.5), "digits/1")
    assert found.train
    assert "uncovered was not measured (it needs at least 6 pictures)" in found.reason


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ("{}", "flow.train_above.share: no bound is set. Set share, fid or uncovered"),
        ("{share: -1}", "flow.train_above.share: must be 0 or more"),
        ("{samples: 1, share: 0}", "samples: must be at least 2"),
        ("{part: 0.1}", "Unknown setting 'flow.train_above.part'"),
    ],
)
def test_wrong_bounds_are_refused(values: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"flow: {{train_above: {values}}}\n")
    with pytest.raises(SettingsError, match=error):
        load_flow_settings(tmp_path / "params.yaml")
