"""With Gantry installed from a wheel, a new project runs from pictures to a promoted version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.checkout import ROOT, clean_environment, run
from tests.test_end_to_end import PARAMS

pytestmark = [pytest.mark.end_to_end, pytest.mark.ray, pytest.mark.prefect, pytest.mark.weights]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only Gantry installed; its dependencies are those of the interpreter."""
    tree, target = tmp_path_factory.mktemp("source") / "gantry", tmp_path_factory.mktemp("installed")
    for name in ("gan_core", "pipelines"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", target, tree], check=True
    )
    shutil.rmtree(tree)
    return target


@pytest.fixture(scope="module")
def environment(packages: Path, weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a new user, in which Python finds the installed package before the repository.

    The weights are there already; that a first run fetches them is seen in test_end_to_end.py.
    """
    variables = clean_environment(tmp_path_factory.mktemp("cache"))
    return variables | {
        "PYTHONPATH": str(packages),
        "GANTRY_WEIGHTS_DIR": str(weights_file.parent),
        "PATH": f"{packages / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}",
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A project with settings for a small run, after its first run."""
    root = tmp_path_factory.mktemp("own") / "project"
    run(["gantry", "init", str(root)], root.parent, environment)
    run(["gantry", "data", "fetch", "digits"], root, environment)
    small = {
        **PARAMS,
        "train": {**PARAMS["train"], "steps": 20, "num_workers": 1},
        "tune": {"trials": 0, "space": "auto"},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    run(["gantry", "run"], root, environment, timeout=600)
    return root


def test_the_installed_package_is_used(project: Path, packages: Path, environment: dict[str, str]) -> None:
    told = run([sys.executable, "-c", "import pipelines; print(pipelines.__file__)"], project, environment)
    assert Path(told.strip()).is_relative_to(packages)
    assert not [*project.glob("*.py"), *project.glob("*/*.py")]


def test_the_page_of_gantry_play_is_in_the_package(packages: Path) -> None:
    page = {path.name for path in (packages / "pipelines" / "play" / "page").iterdir()}
    assert page == {"index.html", "play.css", "play.js"}


def test_a_version_is_promoted_and_sampled(project: Path, environment: dict[str, str]) -> None:
    assert "champion is now version 1" in run(["gantry", "promote"], project, environment)
    run(["gantry", "sample", "digits@champion", "--n", "4", "--out", "sheet.png"], project, environment)
    with Image.open(project / "sheet.png") as sheet:
        assert min(sheet.size) >= 32


def test_a_second_run_trains_nothing(project: Path, environment: dict[str, str]) -> None:
    told = run(["dvc", "repro", "evaluate"], project, environment)
    ran = [line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage")]
    assert ran == ["code"], "only the stage that looks whether the installed package has changed"
