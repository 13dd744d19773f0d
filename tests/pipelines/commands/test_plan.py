"""``gantry plan`` describes a run of a checkout before it starts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.commands import plan as module
from pipelines.commands.plan import plan
from pipelines.flow.plan import PlannedStage
from pipelines.runtime.new_project import make_project
from pipelines.runtime.resources import Node
from tests.datasets import blobs, write_prepared
from tests.pipelines.toy import CHECKOUT


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plan a checkout with prepared data, whose train stage runs, on these nodes."""

    def call(nodes: list[Node], *words: str, **environment: str):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.delenv("GANTRY_STORAGE_URI", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "params.yaml").write_bytes((CHECKOUT / "params.yaml").read_bytes())
        if not (tmp_path / "data/prepared").exists():
            write_prepared(tmp_path / "data/prepared", blobs(64))
        changes = ("train.steps is modified", *(f"gan_core/part{n} is modified" for n in range(9)))
        stage = PlannedStage(name="train", action="runs", reason="after tune", changes=changes)
        monkeypatch.setattr("pipelines.flow.plan.plan_stages", lambda *_: [stage])
        monkeypatch.setattr(module, "_nodes", lambda _: nodes)
        return CliRunner().invoke(plan, list(words), catch_exceptions=False)

    return call


def test_it_names_workers_memory_disk_time_and_what_travels(planned) -> None:
    done = planned([Node(name="here", cpus=2)])
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.output.splitlines() if line)
    assert lines["train"].startswith("runs")
    assert "on here" in lines["workers"]
    assert "a worker for a step" in lines["memory"]
    assert "of decoded pictures on each host" in lines["disk"]
    assert "estimate" in lines["time"]
    assert lines["travels"].startswith("nothing")


def test_a_stage_takes_one_line_with_as_many_of_its_changes_as_fit(planned) -> None:
    first, *_ = planned([Node(name="here", cpus=2)]).output.splitlines()
    assert first == "train  runs        after tune; train.steps is modified, gan_core/part0 is modified and 8 more", (
        "gan_core/part1 would take it beyond column 100"
    )
    first, *others = planned([Node(name="here", cpus=2)], "--verbose").output.splitlines()
    assert first == "train  runs        after tune"
    assert others[:2] == ["  train.steps is modified", "  gan_core/part0 is modified"]
    assert others[9] == "  gan_core/part8 is modified"


def test_a_new_project_is_told_what_is_missing_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    done = CliRunner().invoke(plan, catch_exceptions=False)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "code      runs        it always runs",
        "ingest    MISSING     data/raw/digits does not exist",
        "tune      MISSING     needs ingest",
        "train     MISSING     needs tune",
        "evaluate  MISSING     needs train",
        "register  MISSING     needs evaluate",
        "",
        "Stage 'ingest' needs data/raw/digits, which does not exist. Add it (gantry data add or gantry data",
        "fetch), or change data.name in params.yaml.",
    ]


def test_workers_that_fit_nowhere_are_a_problem(planned) -> None:
    done = planned([Node(name="head", cpus=0)], "--json")
    assert done.exit_code == 1
    assert "train.num_workers" in json.loads(done.output)["training"]["problem"]


def test_prepared_data_that_is_not_in_the_storage_has_to_travel_and_planning_sends_nothing(
    planned, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = planned([Node(name="here", cpus=2)], "--json", GANTRY_STORAGE_URI=f"file://{store}")
    assert "of prepared data to file://" in json.loads(done.output)["training"]["travels"]
    assert not [path for path in store.rglob("*") if path.is_file()]
