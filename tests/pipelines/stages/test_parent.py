"""What training starts from is found once, recorded, and part of the stage key."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_core.errors import StageError
from gan_core.files import read_json, write_json
from pipelines.registry.parent import Parent
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import StageDefinition
from pipelines.runtime.work_directory import mark_finished
from pipelines.stages import parent as parents
from pipelines.stages.parent import parent_inputs, pin_parent, recorded_inputs
from pipelines.storage.objects import Storage
from pipelines.training.run_tags import parent_tags
from tests.pipelines.settings_example import ROOT

DEFINITION = StageDefinition(
    name="train",
    command=("gantry stage train",),
    dependencies={"data/prepared": "1"},
    parameters={"params.yaml": {"train.start_from": "faces@champion"}},
    outs=("outputs/train/generator",),
    replayable=True,
)


@pytest.fixture
def champion(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The registry: the version and digest that faces@champion means now, and how often it was asked."""
    state = {"version": "1", "digest": "a" * 64, "asked": ""}

    def find(start_from: str, checkout: Checkout, uri: str) -> Parent:
        assert start_from == "faces@champion"
        state["asked"] += "x"
        return Parent(name=f"faces/{state['version']}", digest=state["digest"], images_seen=64, dvc="0.dir")

    monkeypatch.setattr(parents, "find_parent", find)
    return state


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("train:\n", "train:\n  start_from: faces@champion\n"))
    return Checkout.at(tmp_path, {})


def key(checkout: Checkout) -> str:
    return DEFINITION.with_inputs(parent_inputs(DEFINITION, checkout)).key


def work(checkout: Checkout, key: str) -> Path:
    folder = checkout.work("train", key)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def move(champion: dict[str, str]) -> None:
    champion |= {"version": "2", "digest": "b" * 64}


def test_the_stage_key_depends_on_the_run_and_not_on_its_name(checkout: Checkout, champion: dict[str, str]) -> None:
    first = key(checkout)
    assert first != DEFINITION.key
    champion["version"] = "7"  # the same content under another name
    assert key(checkout) == first
    move(champion)
    assert key(checkout) != first
    assert DEFINITION.with_inputs({}).key == DEFINITION.key


def test_an_interrupted_run_keeps_its_start_even_if_the_alias_has_moved(
    checkout: Checkout, champion: dict[str, str]
) -> None:
    first = key(checkout)
    work(checkout, first)
    move(champion)
    assert key(checkout) == first
    assert champion["asked"] == "x", "the registry need not be there"
    assert recorded_inputs(DEFINITION, checkout) == {"train.start_from": "a" * 64}


def test_after_the_end_of_the_run_the_alias_counts_again(checkout: Checkout, champion: dict[str, str]) -> None:
    first = key(checkout)
    mark_finished(work(checkout, first), {})
    assert key(checkout) == first, "the same run would use the results again"
    move(champion)
    assert key(checkout) != first


def test_another_host_goes_on_from_the_same_run_through_the_storage(
    checkout: Checkout, champion: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("GANTRY_STORAGE_URI", uri)
    first = key(checkout)
    Storage(uri).write(f"work/train/{first}/journal/0", b"begun")
    shutil.rmtree(checkout.var)  # as on another host
    move(champion)
    assert key(checkout) == first
    Storage(uri).write(f"work/train/{first}/finished", b"")
    assert key(checkout) != first


def test_a_reproduced_version_starts_from_its_own_parent_whatever_the_alias_means(
    checkout: Checkout, champion: dict[str, str]
) -> None:
    """The database of a reproduction has no versions, so the registry must not be asked."""
    first = key(checkout)
    shutil.rmtree(checkout.var)
    move(champion)
    pin_parent(DEFINITION, checkout, Parent(name="faces/1", digest="a" * 64, images_seen=64, dvc="0.dir"))
    assert key(checkout) == first
    assert champion["asked"] == "x"


def test_a_damaged_record_is_named(checkout: Checkout, champion: dict[str, str]) -> None:
    work(checkout, key(checkout))
    path = checkout.parent_record("train", DEFINITION.key)
    record: dict[str, Any] = read_json(path)
    write_json(path, {**record, "images_seen": "many"})
    with pytest.raises(StageError, match=r"parent\.json is damaged: .*Remove it"):
        parent_inputs(DEFINITION, checkout)


def test_without_start_from_nothing_is_asked_or_written(tmp_path: Path, champion: dict[str, str]) -> None:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    assert parent_inputs(DEFINITION, Checkout.at(tmp_path, {})) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(("trials", "asked"), [(2, "x"), (0, "")])
def test_a_search_starts_from_the_run_and_without_a_search_nothing_is_asked(
    checkout: Checkout, champion: dict[str, str], trials: int, asked: str
) -> None:
    params = yaml.safe_load(checkout.params.read_text())
    params["tune"] |= {"trials": trials, "space": {"model.slope": {"type": "uniform", "low": 0.0, "high": 0.4}}}
    checkout.params.write_text(yaml.safe_dump(params))
    definition = replace(DEFINITION, name="tune")
    inputs = parent_inputs(definition, checkout)
    assert inputs == ({"train.start_from": "a" * 64} if trials else {})
    assert champion["asked"] == asked


def test_a_version_names_the_run_it_started_from() -> None:
    parent = {"name": "faces/3", "digest": "a" * 64, "images_seen": 7}
    assert parent_tags(parent) == {
        "gantry.parent": "faces/3",
        "gantry.parent_digest": "a" * 64,
    }
    assert parent_tags(None) == {}
