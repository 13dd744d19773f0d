"""The plan of the flow is DVC's plan."""

import re

import pytest

from gan_core.errors import StageError
from pipelines.flow.graph import read_plan
from pipelines.flow.plan import plan_stages
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import CHECKOUT, dvc, make_project

DVC = """
stages:
  serve:
    cmd: cp d serve
    deps: [d]
    outs: [serve]
  join:
    cmd: cat b c > d
    deps: [b, c]
    outs: [d]
  left:
    cmd: cp raw b
    deps: [raw]
    outs: [b]
  right:
    cmd: cp raw c
    deps: [raw]
    outs: [c]
"""


@pytest.fixture(scope="module")
def diamond(tmp_path_factory):
    root = make_project(tmp_path_factory.mktemp("diamond"), {"dvc.yaml": DVC})
    (root / "raw").write_text("1\n")
    dvc("add", "-q", "raw", cwd=root)
    return root


def test_the_order_is_that_of_dvc_repro(diamond):
    output = dvc("repro", cwd=diamond).stdout
    order = re.findall(r"^(?:Running stage|Stage|)\s*'([^']+)'(?::| didn't change)", output, re.MULTILINE)
    assert [node.name for node in read_plan(Checkout.at(diamond))] == order
    assert set(order) == {"raw.dvc", "left", "right", "join", "serve"}


def test_every_stage_comes_after_its_dependencies_in_dvc_dag(diamond):
    dot = dvc("dag", "--dot", cwd=diamond).stdout
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', dot)
    assert len(edges) == 5
    order = [node.name for node in read_plan(Checkout.at(diamond))]
    for before, after in edges:
        assert order.index(before) < order.index(after)


def test_a_target_includes_only_its_dependencies(diamond):
    assert [node.name for node in read_plan(Checkout.at(diamond), ["left"])] == ["raw.dvc", "left"]


def test_a_data_source_is_not_a_stage(diamond):
    assert [node.name for node in read_plan(Checkout.at(diamond)) if not node.is_stage] == ["raw.dvc"]


def test_outs_are_relative_to_the_checkout(diamond):
    assert {node.name: node.outs for node in read_plan(Checkout.at(diamond))}["join"] == ("d",)


def test_stages_and_data_elsewhere_in_the_dvc_project_are_named_by_their_place(tmp_path, monkeypatch):
    """The checkout is a subfolder of a DVC project, which also has a stage ``left``."""
    above = "stages:\n  left:\n    cmd: cp raw made\n    deps: [raw]\n    outs: [made]\n"
    here = "stages:\n  left:\n    cmd: cp ../made b\n    deps: [../made]\n    outs: [b]\n"
    root = make_project(tmp_path / "whole", {"dvc.yaml": above, "part/dvc.yaml": here})
    (root / "raw").write_text("1\n")
    dvc("add", "-q", "raw", cwd=root)
    nodes = read_plan(Checkout.at(root / "part"))
    assert [(node.name, node.outs) for node in nodes] == [
        ("../raw.dvc", ("../raw",)),
        ("../dvc.yaml:left", ("../made",)),
        ("left", ("b",)),
    ]
    for node in nodes:
        dvc("repro", "-q", "--single-item", node.name, cwd=root / "part")
    assert (root / "part" / "b").read_text() == "1\n"
    (root / "part" / "b").unlink()
    monkeypatch.chdir(root / "part")  # DVC finds earlier results from there only
    assert {stage.name: stage.action for stage in plan_stages(Checkout.at(root / "part"))} == {
        "../raw.dvc": "up to date",
        "../dvc.yaml:left": "up to date",
        "left": "restored",
    }


def test_an_unknown_stage_is_an_error_that_names_the_nearest(diamond, tmp_path):
    with pytest.raises(StageError, match=r"no stage 'jion'.*Did you mean 'join'"):
        read_plan(Checkout.at(diamond), ["jion"])
    with pytest.raises(StageError, match="not a DVC project"):
        read_plan(Checkout.at(tmp_path))


def test_the_plan_of_this_project_follows_dvc_dag_from_its_raw_data_on():
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', dvc("dag", "--dot", cwd=CHECKOUT).stdout)
    order = [node.name for node in read_plan(Checkout.at(CHECKOUT))]
    assert {name for edge in edges for name in edge} == set(order)
    for before, after in edges:
        assert order.index(before) < order.index(after)
    # Git's ignore rules may hide a data source from DVC, which then neither checks it out nor pushes it.
    assert [node.name for node in read_plan(Checkout.at(CHECKOUT)) if not node.is_stage] == [
        "data/raw/fashion-mnist.dvc"
    ]
