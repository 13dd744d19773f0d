"""``python -m tests.infra``: break training runs on several hosts, and print what that cost. Exit status 1 if a case failed."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

from infra.hosts.hosts import HostsError, check_machine
from tests.infra.cluster import Cluster, cluster
from tests.infra.faults import CASES
from tests.infra.training import Figures

VAR = Path(__file__).parents[2] / "var"
RESULT = VAR / "infra.json"
LOGS = VAR / "infra"
"""Has a folder for each repetition that failed."""
_TIMES = {"kill": 20}


class Bench:
    """A cluster for many repetitions. A new one is made after one that failed, so that it cannot spoil the next."""

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._stack = ExitStack()
        self._cluster: Cluster | None = None

    def run(self, name: str, key: str, seconds: float) -> Figures:
        """Run a case once under the stage key ``key``; ``seconds``: length of an outage."""
        try:
            if self._cluster is None:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="gantry-infra-")))
                self._cluster = self._stack.enter_context(cluster("10.86.0", folder, cpus=1, spare=self._spare))
            return CASES[name].run(self._cluster, key, seconds)
        except BaseException as error:
            self.close(keep=key, error=error)
            raise

    def close(self, *, keep: str = "", error: BaseException | None = None) -> None:
        """End the cluster; ``keep``: name of the folder of logs to keep, with the error in it."""
        made, self._cluster = self._cluster, None
        if made and keep:
            made.keep_logs()
            shutil.rmtree(LOGS / keep, ignore_errors=True)
            shutil.copytree(made.logs, LOGS / keep)
            (LOGS / keep / "error.txt").write_text(f"{type(error).__name__}: {error}\n")
        self._stack.close()


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen cases one after the other."""
    given = _parser().parse_args(words)
    names = list(dict.fromkeys(name for pattern in given.cases.split(",") for name in CASES if fnmatch(name, pattern)))
    if not names:
        print(f"No case matches {given.cases}. There are {', '.join(CASES)}.", file=sys.stderr)
        return 2
    try:
        check_machine()
    except HostsError as missing:
        print(missing, file=sys.stderr)
        return 2
    times = {name: given.times or _TIMES.get(name, 5) for name in names}
    bench = Bench(spare=sum(CASES[name].hosts * times[name] for name in names))
    rows = []
    try:
        for name in names:
            passed = [figures for number in range(times[name]) if (figures := _try(bench, name, number + 1, given))]
            rows.append({"case": name, "times": times[name], "passed": [asdict(figures) for figures in passed]})
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps({"outage_seconds": given.outage, "cases": rows}, indent=1) + "\n")
    finally:
        bench.close()
        print(_table(rows))
    return int(any(len(row["passed"]) < row["times"] for row in rows))


def _try(bench: Bench, name: str, number: int, given: argparse.Namespace) -> Figures | None:
    began, figures = time.monotonic(), None
    try:
        figures = bench.run(name, f"{name}-{number}", given.outage)
        outcome = f"{figures.seconds} s, {figures.lost} steps; {figures.parts}"
    except Exception as error:
        outcome = f"FAILED, logs are in {LOGS / f'{name}-{number}'}: {type(error).__name__}: {error}"
    print(f"{name} {number} ({time.monotonic() - began:.0f} s in all): {outcome}", flush=True)
    return figures


def _table(rows: Sequence[dict]) -> str:
    lines = [f"\n{'case':17} {'passed':>7} {'median s':>9} {'longest s':>10} {'steps lost':>11}  verdict"]
    for row in rows:
        passed, times = row["passed"], row["times"]
        seconds = [figures["seconds"] for figures in passed]
        spread = (f"{median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("-", "-")
        lost = str(max(figures["lost"] for figures in passed)) if passed else "-"
        count = f"{len(passed)}/{times}"
        verdict = "pass" if len(passed) == times else "FAIL"
        lines.append(f"{row['case']:17} {count:>7} {spread[0]:>9} {spread[1]:>10} {lost:>11}  {verdict}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    cases = "\n".join(f"  {name:17} {case.about}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.infra",
        description=__doc__,
        epilog=f"cases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", default="*", help="patterns of names, separated by commas; default: all")
    parser.add_argument("--times", type=int, default=0, help="repetitions; default: 20 of kill, 5 of each other case")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds of an outage; default: 60")
    return parser


if __name__ == "__main__":
    sys.exit(main())
