"""A registry that has lost the version of a checkout is noticed, although no input of the stage has changed."""

from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gan_core.files import write_json
from pipelines.registry.registration import lost_registration
from pipelines.runtime.checkout import Checkout


@pytest.fixture
def checkout(tmp_path: Path, register, uri: str, monkeypatch) -> Checkout:
    """A checkout that has registered version 1."""
    for variable in ("GANTRY_TRACKING_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "params.yaml").write_text(f"track: {{uri: '{uri}'}}\n")
    checkout = Checkout.at(tmp_path)
    write_json(checkout.registered, asdict(register()))
    return checkout


def test_a_version_that_is_there_is_not_lost(checkout) -> None:
    assert lost_registration(checkout) == ""
    checkout.registered.unlink()
    assert lost_registration(checkout) == "", "the stage runs anyway"


def test_a_deleted_version_is_lost(checkout, uri) -> None:
    MlflowClient(uri, uri).delete_model_version("digits", "1")
    assert lost_registration(checkout) == (
        f"digits version 1, which an earlier run registered, is not in the registry at {uri}"
    )


def test_another_version_of_the_same_number_is_not_taken_for_it(checkout, uri, register) -> None:
    """As after the registered model was deleted, or a backup of the database restored."""
    MlflowClient(uri, uri).delete_registered_model("digits")
    assert register(stage_key="of another checkout").version == "1"
    assert "is another one in the registry" in lost_registration(checkout)


def test_without_its_database_every_version_is_lost(checkout, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("GANTRY_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert "is not in the registry at" in lost_registration(checkout)
    assert not (tmp_path / "other.db").exists()
