"""A toy project whose stages are run by Gantry's own machinery."""

import shutil
from pathlib import Path

import pytest

from tests.pipelines.toy import make_project

STAGES = '''
"""Stages "slow" and "quick": write what they read, a little at a time, and note each step that they take."""
import os, subprocess, sys, time
from pathlib import Path
from pipelines.stages.context import run_stage


def body(context):
    steps = context.work / "steps.txt"
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (context.root / "pids.new").write_text(f"{os.getpid()} {child.pid} {context.pipeline_run}")
    (context.root / "pids.new").rename(context.root / f"{context.name}.pids")
    while done < int(Path("params.yaml").read_text().split()[-1]):
        with steps.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        done += 1
        time.sleep(0.2)
    result = context.work / "result"
    result.mkdir(exist_ok=True)
    (result / "text.txt").write_text(Path("data.txt").read_text())
    return {f"{context.name}-out": result}


run_stage(sys.argv[1], body)
'''

DVC = """
stages:
  slow:
    cmd: python stages.py slow
    deps: [stages.py, data.txt]
    params: [steps]
    outs: [slow-out]
  quick:
    cmd: python stages.py quick
    deps: [stages.py, slow-out]
    params: [steps]
    outs: [quick-out]
"""


@pytest.fixture(scope="session")
def project_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once: git and DVC take seconds."""
    files = {"stages.py": STAGES, "dvc.yaml": DVC, "params.yaml": "steps: 3\n", "data.txt": "one\n"}
    return make_project(tmp_path_factory.mktemp("stages") / "project", files)


@pytest.fixture
def project(project_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own."""
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    monkeypatch.delenv("GANTRY_PIPELINE_RUN", raising=False)
    return Path(shutil.copytree(project_template, tmp_path / "project"))
