"""``python -m tests.chaos``: run the cases, print a table, note each run in ``var/chaos.jsonl``.

Each run of a case takes its random numbers from its name and one of the fixed seeds, so that a failure can be repeated:
``--cases NAME --seed SEED``. All cases 20 times take hours, so ``--resume`` leaves out the runs that are noted as passed. The
table counts these too, and the failures before them. Exit status 1 if a case failed in this call.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import psutil

from pipelines.runtime.environment import set_up_environment
from tests.chaos import local
from tests.chaos.case import Case, NotSupported, Suite, by_name, prepare
from tests.chaos.case_disk import unmount_below
from tests.chaos.place import adopt_orphans, kill, orphans_now

SEEDS = tuple(range(1, 21))
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run of a case ended."""

    case: str
    seed: int
    verdict: str
    """passed, failed, or n.a. if this machine cannot run it."""
    seconds: float
    notes: list[str]
    trouble: str = ""
    commit: str = ""
    """What was checked out, with ``+`` if files differed from it."""


@dataclass
class _Running:
    case: Case
    seed: int
    result: Path
    began: float


def load_cases() -> dict[str, Case]:
    """All cases by name, in the order of the table."""
    from tests.chaos import case_disk, case_flow, case_leaks, case_ray, case_servers, case_stages

    modules = [case_stages, case_disk, case_servers, case_ray, case_flow, case_leaks]
    return by_name([case for module in modules for case in module.cases()])


def import_everything() -> None:
    """Import what the stages import, so that forks start at once, and let training run without a cluster."""
    set_up_environment()
    for name, patch in local.PATCHES.items():
        patch(importlib.import_module(name))
    bodies = importlib.import_module("pipelines.commands.stage").BODIES
    for name in (
        "dvc.repo.index",
        "dvc.scm",
        "dvc_render",
        "matplotlib.pyplot",
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "ray.train.torch",
        "ruamel.yaml",
        "scmrepo.git",
        "pipelines.training.worker",
        "pipelines.commands.track",
        *bodies.values(),
    ):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def begin(suite: Suite, case: Case, seed: int) -> tuple[int, _Running]:
    """Start one run of a case in a fork; returns its process id and what to wait for."""
    handle, name = tempfile.mkstemp(prefix="result-", suffix=".json", dir=suite.folder)
    os.close(handle)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be(suite, case, seed, Path(name))
    return pid, _Running(case, seed, Path(name), time.monotonic())


def _be(suite: Suite, case: Case, seed: int, result: Path) -> None:
    """The body of the process of one run. Never returns."""
    verdict, trouble = "passed", ""
    try:
        os.setpgid(0, 0)
        adopt_orphans()
        case.run(suite, random.Random(f"{case.name}/{seed}"))
    except NotSupported as reason:
        verdict, trouble = "n.a.", str(reason)
    except AssertionError as error:
        verdict, trouble = "failed", str(error) or traceback.format_exc()
    except BaseException:
        verdict, trouble = "failed", traceback.format_exc()
    finally:
        kill(orphans_now())
        result.write_text(json.dumps({"verdict": verdict, "trouble": trouble, "notes": suite.notes}), encoding="utf-8")
        os._exit(0)


def finish(running: _Running, commit: str) -> Outcome:
    """Read the outcome that the process of a run has written."""
    text = running.result.read_text(encoding="utf-8")
    said = json.loads(text) if text else {"verdict": "failed", "trouble": "its process was killed", "notes": []}
    seconds = time.monotonic() - running.began
    return Outcome(case=running.case.name, seed=running.seed, seconds=seconds, commit=commit, **said)


def run_all(suite: Suite, runs: Sequence[tuple[Case, int]], lanes: int, notes: Path) -> list[Outcome]:
    """Run cases, at most ``lanes`` at once; print and note the outcome of each when it ends."""
    commit = current_commit()
    waiting, running, outcomes = list(runs), dict[int, _Running](), []
    while waiting or running:
        busy_alone = any(entry.case.alone for entry in running.values())
        while waiting and len(running) < lanes and not busy_alone and not (waiting[0][0].alone and running):
            pid, entry = begin(suite, *waiting.pop(0))
            running[pid] = entry
            busy_alone = entry.case.alone
        for pid, entry in list(running.items()):
            if not os.waitpid(pid, os.WNOHANG)[0]:
                if time.monotonic() - entry.began < entry.case.seconds:
                    continue
                _kill_tree(pid)
                entry.result.write_text(
                    json.dumps({"verdict": "failed", "trouble": f"took over {entry.case.seconds:.0f} s", "notes": []})
                )
            del running[pid]
            outcomes.append(finish(entry, commit))
            _tell(outcomes[-1])
            note(notes, outcomes[-1])
        time.sleep(0.05)
    return outcomes


def _kill_tree(pid: int) -> None:
    kill(psutil.Process(pid).children(recursive=True))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _tell(outcome: Outcome) -> None:
    first = (outcome.trouble.splitlines() or [""])[0]
    notes = f" ({'; '.join(outcome.notes[-2:])})" if outcome.notes else ""
    print(f"{outcome.verdict:7}{outcome.case} seed {outcome.seed}, {outcome.seconds:.0f} s{notes} {first}", flush=True)


def current_commit() -> str:
    """The commit that is checked out, with ``+`` if files differ from it."""
    command = ["git", "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def note(notes: Path, outcome: Outcome) -> None:
    """Append an outcome to the notes."""
    notes.parent.mkdir(exist_ok=True)
    with notes.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def noted(notes: Path) -> list[Outcome]:
    """The runs of earlier calls. A last line that a kill cut short is passed over."""
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    return [Outcome(**json.loads(line)) for line in lines if line.endswith("}")]


def forget(notes: Path, runs: Set[tuple[str, int]]) -> None:
    """Remove runs, by case and seed, from the notes."""
    kept = [outcome for outcome in noted(notes) if (outcome.case, outcome.seed) not in runs]
    notes.unlink(missing_ok=True)
    for outcome in kept:
        note(notes, outcome)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each case: the number of runs, how many passed, and what failed."""
    names = list(dict.fromkeys(outcome.case for outcome in outcomes))
    width = max(len(name) for name in names)
    lines = [f"{'case':{width}}  runs  passed  seconds  what failed"]
    for name in names:
        own = [outcome for outcome in outcomes if outcome.case == name]
        counted = [outcome for outcome in own if outcome.verdict != "n.a."]
        passed = sum(outcome.verdict == "passed" for outcome in counted)
        failed = [
            f"seed {o.seed} at {o.commit}: {(o.trouble.splitlines() or ['?'])[0][:90]}"
            for o in counted
            if o.verdict == "failed"
        ]
        said = "; ".join(failed) or ("" if counted else f"not run here: {own[0].trouble}")
        seconds = sum(outcome.seconds for outcome in own) / len(own)
        lines.append(f"{name:{width}}  {len(counted):4}  {passed:6}  {seconds:7.0f}  {said}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Run the cases that the command line chooses."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--cases", default="*", help="names or patterns, separated by commas; all by default")
    parser.add_argument("--times", type=int, default=len(SEEDS), help="runs of each case (default 20)")
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--small", action="store_true", help="the short form of .ci/run: one run of each kind")
    parser.add_argument("--lanes", type=int, default=1, help="cases at once (default 1)")
    parser.add_argument("--resume", action="store_true", help="leave out the runs that are noted as passed")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and exit")
    given = parser.parse_args()
    patterns = [word for word in given.cases.replace(",", " ").split() if word]
    chosen = [case for case in load_cases().values() if any(fnmatch(case.name, pattern) for pattern in patterns)]
    chosen = [case for case in chosen if case.small or not given.small]
    if given.list or not chosen:
        print("\n".join(case.name for case in chosen) or f"no case matches {given.cases}")
        return 0 if chosen else 2
    seeds = (given.seed,) if given.seed is not None else SEEDS[:1] if given.small else SEEDS[: given.times]
    runs = [(case, seed) for case in chosen for seed in seeds]
    notes = ROOT / "var" / ("chaos-small.jsonl" if given.small else "chaos.jsonl")
    if not given.resume:
        forget(notes, {(case.name, seed) for case, seed in runs})
    before = [o for o in noted(notes) if any((o.case, o.seed) == (case.name, seed) for case, seed in runs)]
    done = {(outcome.case, outcome.seed) for outcome in before if outcome.verdict != "failed"}
    began = time.monotonic()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # so that processes and folders are cleaned up
    adopt_orphans()
    import_everything()
    from gan_core.cache import user_cache_dir

    weights = Path(os.environ.get("GANTRY_WEIGHTS_DIR", user_cache_dir() / "weights"))
    folder = Path(tempfile.mkdtemp(prefix="gantry-chaos-"))
    try:
        suite = prepare(folder, weights, small=given.small)
        print(f"prepared in {time.monotonic() - began:.0f} s", flush=True)
        left = [(case, seed) for case, seed in runs if (case.name, seed) not in done]
        outcomes = run_all(suite, left, given.lanes, notes)
    finally:
        kill(orphans_now())
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    took = time.monotonic() - began
    for outcome in outcomes:
        if outcome.verdict == "failed":
            print(f"\n--- {outcome.case} seed {outcome.seed} ({'; '.join(outcome.notes)})\n{outcome.trouble}")
    order = {case.name: number for number, case in enumerate(chosen)}
    counted = sorted([*before, *outcomes], key=lambda outcome: (order[outcome.case], outcome.seed))
    commits = ", ".join(dict.fromkeys(outcome.commit for outcome in counted))
    print(f"\n{table(counted)}\n\nat {commits}; {took:.0f} s; details in {notes.relative_to(ROOT)}")
    return 0 if all(outcome.verdict != "failed" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
