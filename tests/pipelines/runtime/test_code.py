"""A project of the installed package depends on digests of Gantry's code, stage by stage."""

import shutil
from pathlib import Path

import pytest

from pipelines.runtime import code
from pipelines.runtime.code import FOLDER, TEMPLATE, code_digest, code_of_stages, write_digests
from tests.pipelines.toy import CHECKOUT


def test_the_packaged_stages_are_those_of_the_checkout() -> None:
    packaged, own = (
        (TEMPLATE / "stages.yaml").read_text(encoding="utf-8"),
        (CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"),
    )
    assert packaged == own, "run: cp dvc.yaml pipelines/template/stages.yaml"


def test_every_stage_names_code_that_is_there() -> None:
    named = code_of_stages()
    assert set(named) == {"ingest", "tune", "train", "evaluate", "register"}
    assert all(places and all((CHECKOUT / place).exists() for place in places) for places in named.values())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the packages that digests are taken of."""
    for package in ("gan_core", "pipelines"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PLACE", tmp_path)
    return tmp_path


def test_a_digest_follows_the_contents_and_the_names_of_the_files(installed: Path) -> None:
    before = code_digest(["gan_core/nn", "gan_core/batch.py"])
    assert (
        before == code_digest(["gan_core/batch.py", "gan_core/nn"]) == code_digest(["gan_core/nn", "gan_core/batch.py"])
    )
    with (installed / "gan_core/nn/losses.py").open("a") as file:
        file.write("# changed\n")
    changed = code_digest(["gan_core/nn", "gan_core/batch.py"])
    (installed / "gan_core/nn/losses.py").rename(installed / "gan_core/nn/losses_of_gans.py")
    assert len({before, changed, code_digest(["gan_core/nn", "gan_core/batch.py"])}) == 3


def test_a_change_of_training_changes_the_digests_of_the_stages_that_train_alone(
    installed: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    write_digests(project)
    before = {path.name: path.read_text() for path in (project / FOLDER).iterdir()}
    with (installed / "gan_core/training/adam.py").open("a") as file:
        file.write("# changed\n")
    write_digests(project)
    after = {path.name: path.read_text() for path in (project / FOLDER).iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"tune", "train"}
