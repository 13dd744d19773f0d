"""The summary of the demo comes from the results and from the registry."""

from pathlib import Path

import pytest

from gan_core.errors import TrackingError
from gan_core.files import write_json
from pipelines.commands.demo import summary
from pipelines.runtime.checkout import Checkout
from pipelines.settings.schema import load_settings
from pipelines.tracking.store import connect


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout after a run: its results, and its registry with one version."""
    monkeypatch.delenv("GANTRY_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text(Path("params.yaml").read_text())
    write_json(tmp_path / "outputs/evaluate/metrics.json", {"fid": {"value": 12.3456, "stamp": "n = 600"}})
    registered = {"name": "digits", "version": "1", "alias": "challenger"}
    write_json(tmp_path / "outputs/register/registered.json", registered)
    client = connect(f"sqlite:///{tmp_path / 'var' / 'mlflow.db'}")
    client.create_registered_model("digits")
    client.create_model_version("digits", str(tmp_path))
    return tmp_path


def test_the_summary_shows_the_fid_and_the_registered_version(root: Path) -> None:
    told = summary(Checkout.at(root), load_settings(root / "params.yaml"), 61)
    assert "12.35  (n = 600)" in told
    assert "digits version 1, alias challenger" in told


def test_a_version_that_the_registry_lacks_is_an_error(root: Path) -> None:
    registered = {"name": "digits", "version": "2", "alias": "challenger"}
    write_json(root / "outputs/register/registered.json", registered)
    with pytest.raises(
        TrackingError, match=r"digits version 2.* is not in the registry at sqlite:.*dvc repro --force --single-item"
    ):
        summary(Checkout.at(root), load_settings(root / "params.yaml"), 61)
