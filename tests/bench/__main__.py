"""``python -m tests.bench [MODULE ...]``: run the comparisons, print one table, write ``var/bench.json``.

Each module runs in a process of its own, one after the other, so that none disturbs the next. The exit status is 0 when
every module ran and no target that this machine can show was missed.
"""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from gan_core.files import write_json
from tests.bench import Row

MODULES = (
    "training",
    "streaming",
    "families",
    "translation",
    "inception",
    "figures",
    "ingest",
    "stage",
    "serving",
    "startup",
)
ROOT = Path(__file__).parents[2]
RESULT = ROOT / "var" / "bench.json"


def measure(module: str) -> tuple[list[Row], str | None]:
    """The rows of one module, run in a process of its own, and what went wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "tests.bench", "--single", module, "--to", str(result)]
        ended = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
        if ended.returncode == 0 and result.is_file():
            return [Row(**row) for row in json.loads(result.read_text(encoding="utf-8"))], None
        sys.stderr.write(ended.stderr)
        last = (ended.stderr.strip().splitlines() or [f"ended with status {ended.returncode}"])[-1]
        return [], last


def single(module: str, target: Path) -> None:
    """Run one module here and write its rows."""
    rows = importlib.import_module(f"tests.bench.{module}").rows()
    write_json(target, [dataclasses.asdict(row) for row in rows])


def verdict(row: Row, error: bool) -> str:
    """ok, miss, open, n.a. (no target or no figure on this machine), or error. Of costs (any unit but x) less is better.

    A target is missed if the whole interval misses it, and open if the interval holds it and the median misses it.
    """
    if error:
        return "error"
    if row.ratio is None or row.target is None:
        return "n.a."
    sign = 1 if row.unit == "x" else -1
    if sign * row.ratio >= sign * row.target:
        return "ok"
    best = row.high if row.unit == "x" else row.low
    return "open" if best is not None and sign * best >= sign * row.target else "miss"


def table(entries: list[tuple[Row, str]]) -> str:
    """The rows as aligned text."""
    cells = [("", "figure", "target", "")]
    for row, said in entries:
        sign = ">=" if row.unit == "x" else "<="
        figure = "-" if row.ratio is None else f"{row.ratio:.2f} {row.unit}"
        if row.low is not None:
            figure += f" [{row.low:.2f}, {row.high:.2f}]"
        cells.append((row.name, figure, "-" if row.target is None else f"{sign} {row.target:g} {row.unit}", said))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = []
    for index, line in enumerate(cells):
        name, figure, target, said = line
        lines.append(f"{name:<{widths[0]}}  {figure:>{widths[1]}}  {target:>{widths[2]}}  {said}".rstrip())
        if index and (note := entries[index - 1][0].note):
            lines += textwrap.wrap(note, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def main() -> int:
    """Run what the command line names; 1 when a module failed or a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help=f"which to run, of: {', '.join(MODULES)} (all by default)")
    parser.add_argument("--single", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        single(options.single, options.to)
        return 0
    unknown = sorted(set(options.modules) - set(MODULES))
    if unknown:
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    entries: list[tuple[Row, str]] = []
    for index, module in enumerate(names := options.modules or MODULES, start=1):
        print(f"[{index}/{len(names)}] {module} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        rows, wrong = measure(module)
        if wrong is not None:
            rows = [Row(name=module, ratio=None, target=None, note=wrong)]
        print(f"[{index}/{len(names)}] {module}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        entries += [(row, verdict(row, wrong is not None)) for row in rows]
    print(table(entries))
    write_json(RESULT, [{**dataclasses.asdict(row), "verdict": said} for row, said in entries])
    print(f"\nAlso in {RESULT.relative_to(ROOT)}.")
    return int(any(said in ("miss", "error") for _, said in entries))


if __name__ == "__main__":
    sys.exit(main())
