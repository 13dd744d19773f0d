"""A checkout to break: made once, copied for each run. Stages run in forks of this process, commands in new processes."""

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from pipelines.runtime.environment import set_up_environment
from tests.chaos.inject import VARIABLE, Plan, Point, fired, install
from tests.checkout import clean_environment, clone, commit, run

PARAMS: dict[str, Any] = {
    "data": {"name": "digits"},
    "ingest": {"size": [16, 16], "channels": 1, "fit": "stretch", "max_reject_share": 0.2, "workers": 1},
    "model": {"family": "dcgan", "width": 4, "latent": 8},
    "train": {
        "steps": 40,
        "batch": 16,
        "log_every": 5,
        "sample_every": 20,
        "checkpoint_every": 10,
        "fid_every": 0,
    },
    "tune": {"trials": 0},
    "evaluate": {"objective": "fid", "samples": 8, "real": 8, "features": 2048, "batch": 8},
    "register": {"name": "digits"},
    "track": {"uri": "sqlite:///var/mlflow.db", "experiment": "chaos"},
    "flow": {"retries": 0, "retry_delay_s": 1},
}
STAGES = ("ingest", "tune", "train", "evaluate", "register")
ORPHAN_SECONDS = 30.0
PRELOAD = Path(__file__).parent / "preload"
PIPELINE_RUN = "chaos-run"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    status: int
    """Exit status, or minus the number of the signal that ended it."""
    output: str
    acted: bool
    """Whether the injector acted."""


@dataclass
class Place:
    """A checkout of the suite with its own environment."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """Folder for the suite's own logs."""
        return self.root.parent / "suite"

    def plan(self, point: Point | None = None, action: str = "kill") -> Plan:
        """A new plan for the checkout, its caches and its temporary files."""
        self.scratch.mkdir(exist_ok=True)
        log = Path(tempfile.mkdtemp(prefix="plan-", dir=self.scratch)) / "moments"
        roots = (str(self.root), self.environment["GANTRY_CACHE_DIR"], self.environment["TMPDIR"])
        return Plan(log=str(log), roots=roots, point=point, action=action)

    def begin_stage(self, name: str, plan: Plan | None = None, **extra: str) -> "Fork":
        """Start ``gantry stage NAME`` in a fork of this process, without a cluster."""
        return Fork(self, lambda: _stage(name), plan, extra)

    def stage(self, name: str, plan: Plan | None = None, *, seconds: float = 120, **extra: str) -> Ended:
        """Run ``gantry stage NAME`` to its end."""
        return self.begin_stage(name, plan, **extra).wait(seconds)

    def call(self, function: Callable[[], object], plan: Plan | None = None, *, seconds: float = 120) -> Ended:
        """Run a function in a fork of this process, in the checkout; an exception ends it with status 1 and its traceback."""
        return Fork(self, function, plan, {}).wait(seconds)

    @contextmanager
    def copy(self) -> Iterator["Place"]:
        """A copy with its own temporary files and caches, removed after the block."""
        holder = Path(tempfile.mkdtemp(prefix="gantry-chaos-", dir=self.root.parents[1]))
        try:
            shutil.copytree(self.root, holder / "checkout", symlinks=True)
            _move_store(holder / "checkout", self.root.parents[1] / "template" / "checkout")
            yield place_at(holder / "checkout", self.environment)
        finally:
            shutil.rmtree(holder, ignore_errors=True)

    def command(self, *words: str, plan: Plan | None = None, **extra: str) -> "Command":
        """Start a command in the checkout, in its own session."""
        environment = {**self.environment, **extra}
        if plan is not None:
            environment[VARIABLE] = plan.to_json()
        self.scratch.mkdir(exist_ok=True)
        return Command(words, self.root, environment, self.scratch, plan)


def place_at(root: Path, environment: Mapping[str, str]) -> Place:
    """The checkout at ``root`` with caches and temporary files beside it."""
    own = {"GANTRY_CACHE_DIR": root.parent / "cache", "TMPDIR": root.parent / "tmp"}
    for folder in own.values():
        folder.mkdir(exist_ok=True)
    paths = {name: str(path) for name, path in own.items()}
    path = os.pathsep.join([str(PRELOAD), str(root)])
    return Place(root, {**environment, **paths, "PYTHONPATH": path, "GANTRY_PIPELINE_RUN": PIPELINE_RUN})


def _move_store(root: Path, origin: Path) -> None:
    """Replace the path ``origin`` by ``root`` in MLflow's store and in the logs of the checkout at ``root``."""
    for cursor in (root / "var/track").glob("**/cursor.json"):
        cursor.write_text(cursor.read_text(encoding="utf-8").replace(f"{origin}/", f"{root}/"), encoding="utf-8")
    if not (root / "var/mlflow.db").is_file():
        return
    with closing(sqlite3.connect(root / "var/mlflow.db")) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [
                row[1]
                for row in database.execute(f"PRAGMA table_info({table})")
                if "CHAR" in row[2] or row[2] == "TEXT"
            ]
            for column in columns:
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                database.execute(change, (f"{origin}/", f"{root}/", f"{origin}/"))
        database.commit()


def make_template(folder: Path, weights: Path) -> Place:
    """Make a checkout at ``folder/template/checkout`` with raw data, all committed, before any stage ran."""
    (folder / "template").mkdir()
    environment = {
        **clean_environment(folder / "template" / "cache"),
        "GANTRY_WEIGHTS_DIR": str(weights),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    root = clone(folder / "template" / "checkout", PARAMS, environment)
    place = place_at(root, environment)
    run(["gantry", "data", "fetch", "digits"], root, place.environment)
    commit(root, place.environment)
    # Prefect takes longer to make its database than a stage runs, and each run of a case would make one.
    home = root / "var" / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    run(["prefect", "server", "database", "upgrade", "--yes"], root, {**place.environment, "PREFECT_HOME": str(home)})
    return place


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The undisturbed run: the checkout before each stage and after the last."""

    before: dict[str, Place]
    after: Place

    def results(self, name: str) -> dict[str, str]:
        """Digests of the stage's outs; see :func:`outs`."""
        return outs(self.after.root, name)


def run_baseline(template: Place, plans: Mapping[str, Plan]) -> Baseline:
    """Run the stages of ``plans`` in order, each with its plan, and keep a copy of the checkout before each."""
    before = {}
    for name, plan in plans.items():
        holder = template.root.parents[1] / f"before-{name}"
        shutil.copytree(template.root.parent, holder, symlinks=True)
        before[name] = place_at(holder / "checkout", template.environment)
        ended = template.stage(name, plan, seconds=300)
        assert ended.status == 0, f"the undisturbed {name} ended with {ended.status}:\n{ended.output[-3000:]}"
    return Baseline(before=before, after=template)


def outs(root: Path, name: str) -> dict[str, str]:
    """SHA-256 of each file of a stage's results, by path. The times in figures are left out."""
    places = {
        "ingest": ["data/prepared"],
        "tune": ["outputs/tune/best.json", "outputs/tune/leaderboard.csv"],
        "train": ["outputs/train"],
        "evaluate": ["outputs/evaluate"],
        "register": [],  # it contains addresses of pages
    }[name]
    files = [file for place in places for file in _files(root / place)]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]


def _stage(name: str) -> None:
    from pipelines.commands.stage import stage

    # The checkout is a clone of the code that this process has imported.
    with patch("pipelines.commands.stage.check_own_code"):
        stage([name], standalone_mode=False)


class _Process:
    """The common base of forks and commands."""

    pid: int
    _log: Path
    _plan: Plan | None

    def family(self) -> list[psutil.Process]:
        """The process and its descendants."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            return [top, *top.children(recursive=True)]
        return []

    def output(self) -> str:
        """Its output so far, of both streams."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def acted(self) -> bool:
        """Whether the injector has acted."""
        return self._plan is not None and fired(Path(self._plan.log))


class Fork(_Process):
    """A fork of this process, which has already imported everything."""

    def __init__(
        self, place: Place, function: Callable[[], object], plan: Plan | None, extra: Mapping[str, str]
    ) -> None:
        place.scratch.mkdir(exist_ok=True)
        self._log, self._plan = Path(tempfile.mkdtemp(prefix="fork-", dir=place.scratch)) / "output", plan
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._be(place, function, extra)

    def _be(self, place: Place, function: Callable[[], object], extra: Mapping[str, str]) -> None:
        """The body of the child. Never returns."""
        status = 1
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            with open(self._log, "ab", buffering=0) as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os.environ.clear()
            os.environ.update({**place.environment, **extra})
            set_up_environment()
            tempfile.tempdir = None
            os.chdir(place.root)
            if self._plan is not None:
                install(self._plan)
            function()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except BaseException as error:
            status = _say(error)
        finally:
            import atexit

            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
                atexit._run_exitfuncs()
            os._exit(status)

    def ended(self) -> bool:
        """Whether it has ended."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def wait(self, seconds: float = 120) -> Ended:
        """Wait for its end. After ``seconds``, kill its descendants and fail."""
        deadline = time.monotonic() + seconds
        while True:
            if self.ended():
                assert self._status is not None
                return Ended(status=self._status, output=self.output(), acted=self.acted())
            if time.monotonic() > deadline:
                kill(self.family())
                os.waitpid(self.pid, 0)
                raise AssertionError(f"still running after {seconds:.0f} s:\n{self.output()[-2000:]}")
            time.sleep(0.02)


def _say(error: BaseException) -> int:
    """Print an error as the command line does: errors of Gantry and of the system in one line."""
    from gan_core.disk import describe_os_error
    from gan_core.errors import GantryError

    if isinstance(error, GantryError):
        print(f"error: {error}", file=sys.stderr)
    elif isinstance(error, OSError) and error.filename is not None:
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1


class Command(_Process):
    """A command in its own process and session."""

    def __init__(
        self, words: Sequence[str], root: Path, environment: Mapping[str, str], scratch: Path, plan: Plan | None
    ) -> None:
        self._log, self._plan = Path(tempfile.mkdtemp(prefix="command-", dir=scratch)) / "output", plan
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                list(words),
                cwd=root,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def wait(self, seconds: float = 300) -> Ended:
        """Wait for its end. After ``seconds``, kill its descendants and fail."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(self.family())
            self.process.wait()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.output()[-3000:]}") from None
        return Ended(status=status, output=self.output(), acted=self.acted())

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until ``condition()`` while the command runs; fail if it ends or after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self.process.poll()
            assert ended is None, f"ended with {ended} before {what}:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, (
                f"{what} did not happen within {seconds:.0f} s:\n{self.output()[-2000:]}"
            )
            time.sleep(0.05)


def kill(processes: Sequence[psutil.Process]) -> None:
    """Kill processes that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def orphans(*, spared: Sequence[int] = (), seconds: float = ORPHAN_SECONDS) -> list[str]:
    """The descendants that still run after ``seconds``, except ``spared`` and their descendants.

    This process must adopt orphans: see :func:`adopt_orphans`.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = [process for process in psutil.Process().children(recursive=True) if not _is_spared(process, spared)]
        if not left or time.monotonic() > deadline:
            return [_described(process) for process in left]
        time.sleep(0.1)


def orphans_now() -> list[psutil.Process]:
    """The descendants of this process."""
    return psutil.Process().children(recursive=True)


def _is_spared(process: psutil.Process, spared: Sequence[int]) -> bool:
    with suppress(psutil.NoSuchProcess):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.pid in spared or any(parent.pid in spared for parent in process.parents())
    return True


def _described(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return f"{process.pid} (gone)"


def adopt_orphans() -> None:
    """Make this process adopt descendants that lose their parent, so that all of them can be found."""
    from pipelines.runtime.guard import _PR_SET_CHILD_SUBREAPER, _prctl

    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_params(place: Place, **sections: Mapping[str, Any]) -> None:
    """Change values of params.yaml, by section."""
    import yaml

    path = place.root / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, changes in sections.items():
        values[section] = {**values[section], **changes}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
