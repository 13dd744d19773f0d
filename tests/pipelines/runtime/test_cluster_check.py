"""Nodes of a cluster are compared with the driver's host, and what is wrong is named with the node."""

import dataclasses
import os
import signal
import time

import psutil
import pytest

from pipelines.runtime.cluster_check import NodeReport, Probe, check_nodes, judge, probe

PROBE = Probe(
    host="a",
    versions={"torch": "2.13.0", "ray": "2.60.0"},
    storage="",
    storage_skew=None,
    weights=True,
    weights_path="/weights",
    visible_gpus=0,
    free={"/cache": 100 * 2**30},
)
DRIVER = NodeReport(name="driver (a)", address="", probe=PROBE, skew=0.0)


def statuses(report: NodeReport, uri: str = "s3://bucket") -> dict[str, str]:
    """The status of each check of a node."""
    return {name: cell.status for name, cell in judge([DRIVER, report], uri)[1].cells.items()}


def node(**changes: object) -> NodeReport:
    """A node in good order but for ``changes``, of the report or its probe."""
    ours = {
        name: value for name, value in changes.items() if name in {field.name for field in dataclasses.fields(Probe)}
    }
    report = {"name": "b", "address": "10.0.0.2", "skew": 0.1, **{n: v for n, v in changes.items() if n not in ours}}
    return NodeReport(**{"probe": dataclasses.replace(PROBE, **{"host": "b", **ours}), **report})  # type: ignore[arg-type]


def test_a_node_like_the_driver_is_in_order() -> None:
    assert set(statuses(node()).values()) == {"ok"}


@pytest.mark.parametrize(
    ("check", "changes", "status"),
    [
        ("versions", {"versions": {"torch": "2.12.0", "ray": "2.60.0"}}, "problem"),
        ("storage", {"storage": "Storage s3://bucket refuses"}, "problem"),
        ("weights", {"weights": False}, "note"),
        ("gpu", {"gpus": 2, "visible_gpus": 1}, "problem"),
        ("clock", {"skew": 30.0}, "note"),
        ("clock", {"skew": -3000.0}, "problem"),
        ("clock", {"storage_skew": 3000.0}, "problem"),
        ("disk", {"free": {"/cache": 2**30, "/tmp": 2**50}}, "problem"),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(check: str, changes: dict[str, object], status: str) -> None:
    found = statuses(node(**changes))
    assert found.pop(check) == status
    assert set(found.values()) == {"ok"}


def test_other_versions_are_named_beside_the_drivers() -> None:
    row = judge([DRIVER, node(versions={"torch": "2.12.0", "ray": "2.60.0"})], "")[1]
    assert row.cells["versions"].found == "torch 2.12.0 (driver: 2.13.0)"


def test_a_slow_answer_is_no_skew() -> None:
    assert statuses(node(skew=9.0, uncertainty=8.5))["clock"] == "ok"


def test_another_host_needs_a_storage() -> None:
    assert statuses(node(), "")["storage"] == "problem"
    assert statuses(node(host="a"), "")["storage"] == "ok"


def test_a_silent_node_is_a_problem_of_its_own() -> None:
    assert statuses(NodeReport(name="b", address="", failure="does not answer within 5 s")) == {"reach": "problem"}


def test_a_lost_node_is_noted_because_nodes_may_come_and_go() -> None:
    assert statuses(NodeReport(name="b", address="", gone=True)) == {"reach": "note"}


def test_a_probe_leaves_nothing_in_the_storage(tmp_path) -> None:
    found = probe(f"file://{tmp_path}", 0)
    assert found.storage == ""
    assert found.storage_skew is not None
    assert abs(found.storage_skew) < 5
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_storage_that_cannot_be_written_is_reported_and_not_raised(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in probe(f"file://{tmp_path}/file", 0).storage


@pytest.mark.ray
def test_each_node_of_the_cluster_answers(ray_cluster: str, tmp_path) -> None:
    uri = f"file://{tmp_path}"
    driver, ours = judge(check_nodes(uri, 120), uri)
    assert driver.name.startswith("driver")
    assert {name: ours.cells[name].status for name in ("reach", "versions", "storage", "clock")} == dict.fromkeys(
        ("reach", "versions", "storage", "clock"), "ok"
    )


@pytest.mark.ray
def test_a_node_that_does_not_answer_in_time_is_named(ray_cluster: str, tmp_path) -> None:
    raylets = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet" and is_ours(p)]
    assert len(raylets) == 1
    raylets[0].send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    try:
        reports = check_nodes("", 3)
    finally:
        raylets[0].send_signal(signal.SIGCONT)
    assert time.monotonic() - begun < 20
    assert reports[1].failure == "does not answer within 3 s"
    assert judge(reports, "")[1].cells["reach"].status == "problem"


def is_ours(process: psutil.Process) -> bool:
    """Whether a raylet was started by this process."""
    return any(parent.pid == os.getpid() for parent in process.parents())
