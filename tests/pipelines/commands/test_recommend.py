"""``gantry recommend`` ranks families for prepared data."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gan_core.errors import DataError
from pipelines.commands.recommend import format_hours, recommend
from tests.datasets import blobs, write_prepared


def test_the_ranking_names_families_with_their_costs_and_what_to_write(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", blobs(8), np.arange(8) % 2)
    told = CliRunner().invoke(recommend, [str(data), "--device", "cpu"])
    assert told.exit_code == 0, told.output
    assert "8 pictures of 16x16x1, 2 classes" in told.output
    ranked = json.loads(CliRunner().invoke(recommend, [str(data), "--device", "cpu", "--json"]).output)
    assert f"model: {{family: {ranked[0]['family']}, preset: auto}}" in told.output
    assert all(entry["reason"] for entry in ranked)


def test_without_prepared_data_the_error_names_the_ingest_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(recommend, [])
    assert isinstance(done.exception, DataError)
    assert "No prepared dataset in data/prepared" in str(done.exception)
    assert "Run the ingest stage" in str(done.exception)


@pytest.mark.parametrize(("hours", "said"), [(0.001, "1 min"), (0.5, "30 min"), (5, "5 h"), (100, "4 days")])
def test_hours_are_formatted_in_a_suitable_unit(hours: float, said: str) -> None:
    assert format_hours(hours) == said
