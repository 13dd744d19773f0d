"""The train stage reads the best settings of the search."""

import json

import pytest

from gan_core.errors import DataError
from pipelines.registry.parent import Parent
from pipelines.stages.train import _other_parent, _read_best


@pytest.mark.parametrize("content", [[], {}, {"parameters": [0.1]}, {"value": 3.0}])
def test_a_search_result_without_parameters_is_an_error(tmp_path, content):
    path = tmp_path / "best.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"best\.json is not the result of a search\. Run the search again: dvc repro"):
        _read_best(path)


def test_the_best_settings_are_read(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"parameters": {"model.slope": 0.2}}))
    assert _read_best(path) == {"model.slope": 0.2}


def test_a_search_from_another_run_is_named(tmp_path):
    """An alias may move between the search and training."""
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"parameters": {}, "parent": {"name": "faces/3", "digest": "a", "images_seen": 8}}))
    assert _other_parent(path, Parent(name="faces/3", digest="a", images_seen=8)) == ""
    told = _other_parent(path, Parent(name="faces/4", digest="b", images_seen=16))
    assert told.startswith("the search started from faces/3, training starts from faces/4")
    path.write_text(json.dumps({"parameters": {}}))
    assert _other_parent(path, None) == ""
