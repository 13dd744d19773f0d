"""A toy project for flows."""

import shutil
from pathlib import Path

import pytest

from tests.pipelines.toy import make_project

STAGES = '''
"""Stages of a toy pipeline: copy the input; note the process; do as params.yaml says."""
import os, subprocess, sys, time
from pathlib import Path
source, target = sys.argv[1:3]
says = dict(line.split(": ", 1) for line in Path("params.yaml").read_text().splitlines())
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
Path("pids.new").write_text(f"{os.getpid()} {child.pid}")
Path("pids.new").rename(f"{target}.pids")
print(f"making {target} in run {os.environ.get('GANTRY_PIPELINE_RUN')}", flush=True)
time.sleep(float(says[f"seconds_{target}"]))
if says["fail"] == target:
    print(f"error: the trouble with {target}", flush=True)
    sys.exit(5)
child.kill()
Path(target).write_text(Path(source).read_text() + f"{target}\\n")
'''

DVC = """
stages:
  second:
    cmd: python stages.py a b
    deps: [a, stages.py]
    params: [fail, seconds_b]
    outs: [b]
  first:
    cmd: python stages.py raw a
    deps: [raw, stages.py]
    params: [seconds_a]
    outs: [a]
"""

PARAMS = "fail: none\nseconds_a: 0\nseconds_b: 0\n"


@pytest.fixture(scope="session")
def flow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once: git and DVC take seconds."""
    files = {"stages.py": STAGES, "dvc.yaml": DVC, "params.yaml": PARAMS, "raw": "raw\n"}
    return make_project(tmp_path_factory.mktemp("flow") / "project", files)


@pytest.fixture
def flow_project(flow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own: stages ``first`` and ``second``, and nothing in git but its files."""
    for name in ("GANTRY_VAR", "GANTRY_PIPELINE_RUN", "GANTRY_CLUSTER", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(flow_template, tmp_path / "project"))
