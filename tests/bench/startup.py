"""How long a command's help takes: the slowest ``gantry VERB --help``, each in a fresh interpreter."""

import subprocess
import sys
import time
from pathlib import Path

from pipelines.cli import COMMANDS
from tests.bench import Row

ROOT = Path(__file__).parents[2]
TIMES = 3
GANTRY = "from pipelines.cli import main; main()"


def rows() -> list[Row]:
    """The table's rows."""
    empty = seconds("pass")
    helps = {
        " ".join(["gantry", *words]): seconds(GANTRY, *words, "--help")
        for words in [[], *([verb] for verb in COMMANDS)]
    }
    slowest = max(helps, key=lambda name: helps[name])
    note = f"{slowest}: {helps[slowest] / empty:.1f} times an empty program ({empty:.2f} s); gantry: {helps['gantry']:.2f} s"
    return [Row(name="slowest gantry VERB --help", ratio=helps[slowest], target=0.7, unit="s", note=note)]


def seconds(program: str, *words: str) -> float:
    """The shortest of several runs of ``program`` in a fresh interpreter."""
    taken = []
    for _ in range(TIMES):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - started)
    return min(taken)
