"""The stages of a project depend on digests of the installed code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gan_core.errors import StageError
from pipelines.runtime import code
from pipelines.runtime.code import (
    DIGEST_FOLDER,
    TEMPLATE,
    check_own_code,
    code_digest,
    stage_code_paths,
    write_digests,
)
from tests.pipelines.toy import CHECKOUT


def test_the_packaged_stages_are_those_of_the_checkout() -> None:
    packaged, own = (
        (TEMPLATE / "stages.yaml").read_text(encoding="utf-8"),
        (CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"),
    )
    assert packaged == own, "run: cp dvc.yaml pipelines/template/stages.yaml"


def test_the_code_that_each_stage_names_exists() -> None:
    named = stage_code_paths()
    assert set(named) == {"ingest", "tune", "train", "evaluate", "register"}
    assert all(places and all((CHECKOUT / place).exists() for place in places) for places in named.values())


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the packages, used for the digests."""
    for package in ("gan_core", "pipelines"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "_package_root", lambda package: tmp_path)
    return tmp_path


def test_a_digest_changes_with_contents_and_names_of_files(installed: Path) -> None:
    before = code_digest(["gan_core/nn", "gan_core/batch.py"])
    assert (
        before == code_digest(["gan_core/batch.py", "gan_core/nn"]) == code_digest(["gan_core/nn", "gan_core/batch.py"])
    )
    with (installed / "gan_core/nn/losses.py").open("a") as file:
        file.write("# changed\n")
    changed = code_digest(["gan_core/nn", "gan_core/batch.py"])
    (installed / "gan_core/nn/losses.py").rename(installed / "gan_core/nn/losses_of_gans.py")
    assert len({before, changed, code_digest(["gan_core/nn", "gan_core/batch.py"])}) == 3


def test_a_change_of_the_trainer_changes_only_the_digests_of_stages_that_train(installed: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_digests(project)
    before = {path.name: path.read_text() for path in (project / DIGEST_FOLDER).iterdir()}
    with (installed / "gan_core/training/adam.py").open("a") as file:
        file.write("# changed\n")
    write_digests(project)
    after = {path.name: path.read_text() for path in (project / DIGEST_FOLDER).iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"tune", "train"}


def test_the_digest_is_the_same_where_each_package_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """As on the hosts of a Ray cluster, to which the driver sends the packages."""
    for package in ("gan_core", "pipelines"):
        shutil.copytree(CHECKOUT / package, tmp_path / f"of-{package}" / package)
    program = "from pipelines.runtime.code import *; print(code_digest(stage_code_paths()['train']))"
    path = os.pathsep.join(str(tmp_path / f"of-{package}") for package in ("gan_core", "pipelines"))
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == code_digest(stage_code_paths()["train"])


def test_a_folder_with_another_copy_of_the_code_is_an_error(tmp_path: Path) -> None:
    """As a second clone or git worktree in which the command of the first one is called."""
    check_own_code(CHECKOUT)
    check_own_code(tmp_path)  # a project of gantry init has no code
    linked = tmp_path / "linked"
    linked.symlink_to(CHECKOUT)
    check_own_code(linked)
    shutil.copytree(CHECKOUT / "pipelines" / "runtime", tmp_path / "pipelines" / "runtime")
    with pytest.raises(StageError, match=rf"{tmp_path} has Gantry's code, but this command runs that of {CHECKOUT}"):
        check_own_code(tmp_path)
