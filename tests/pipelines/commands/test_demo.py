"""The summary of the demo comes from the results."""

from pathlib import Path

import pytest

from gan_core.files import write_json
from pipelines.commands.demo import summary
from pipelines.runtime.checkout import Checkout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout after a run, with its results."""
    write_json(tmp_path / "outputs/evaluate/metrics.json", {"fid": {"value": 12.3456, "stamp": "n = 600"}})
    registered = {"name": "digits", "version": "1", "alias": "challenger"}
    write_json(tmp_path / "outputs/register/registered.json", registered)
    return tmp_path


def test_the_summary_shows_the_fid_and_the_registered_version(root: Path) -> None:
    told = summary(Checkout.at(root), 61)
    assert "12.35  (n = 600)" in told
    assert "digits version 1, alias challenger" in told
