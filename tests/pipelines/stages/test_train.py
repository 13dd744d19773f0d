"""The train stage reads the best settings of the search."""

import json

import pytest

from gan_core.errors import DataError
from pipelines.stages.train import _read_best


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
