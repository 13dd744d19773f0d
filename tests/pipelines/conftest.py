"""Projects and databases for the tests, each made once a session and copied for each test."""

import shutil
from pathlib import Path

import pytest

from tests.pipelines.toy import make_project
from tests.pipelines.tracking.database import copy_of, make_template

STAGE_PROGRAM = '''
"""Stages "slow" and "quick": copy their input step by step, and record each step."""
import os, subprocess, sys, time
from pathlib import Path
from pipelines.runtime.checkout import Checkout
from pipelines.stages.context import run_stage


def body(context):
    steps = context.work / "steps.txt"
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (context.checkout.root / "pids.new").write_text(f"{os.getpid()} {child.pid} {context.pipeline_run}")
    (context.checkout.root / "pids.new").rename(context.checkout.root / f"{context.name}.pids")
    while done < int(Path("params.yaml").read_text().split()[-1]):
        with steps.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        done += 1
        time.sleep(0.2)
    result = context.work / "result"
    result.mkdir(exist_ok=True)
    (result / "text.txt").write_text(Path("data.txt").read_text())
    return {f"{context.name}-out": result}


run_stage(sys.argv[1], body, Checkout.at())
'''

STAGE_DVC = """
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

FLOW_PROGRAM = '''
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

FLOW_DVC = """
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

FLOW_PARAMS = "fail: none\nseconds_a: 0\nseconds_b: 0\n"


@pytest.fixture(scope="session")
def project_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once per session: git and DVC take seconds."""
    files = {"stages.py": STAGE_PROGRAM, "dvc.yaml": STAGE_DVC, "params.yaml": "steps: 3\n", "data.txt": "one\n"}
    return make_project(tmp_path_factory.mktemp("stages") / "project", files)


@pytest.fixture
def project(project_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project with stages ``slow`` and ``quick`` that run in Gantry's work directories."""
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    monkeypatch.delenv("GANTRY_PIPELINE_RUN", raising=False)
    return Path(shutil.copytree(project_template, tmp_path / "project"))


@pytest.fixture(scope="session")
def flow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, made once per session: git and DVC take seconds."""
    files = {"stages.py": FLOW_PROGRAM, "dvc.yaml": FLOW_DVC, "params.yaml": FLOW_PARAMS, "raw": "raw\n"}
    return make_project(tmp_path_factory.mktemp("flow") / "project", files)


@pytest.fixture
def flow_project(flow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project with stages ``first`` and ``second``; git holds only its files."""
    for name in ("GANTRY_VAR", "GANTRY_PIPELINE_RUN", "GANTRY_CLUSTER", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(flow_template, tmp_path / "project"))


@pytest.fixture(scope="session")
def database_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, made once."""
    return make_template(tmp_path_factory)


@pytest.fixture
def uri(database_template: Path, tmp_path: Path) -> str:
    """Tracking URI of a fresh database in the test's own folder."""
    return copy_of(database_template, tmp_path)
