"""Rows of figures with their targets and published counterparts, the machine that they are from, and the table of a part."""

import json
import math
import platform
import re
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from gan_core.files import write_json

State = Literal["ok", "miss", "figure", "needs CUDA", "left out", "missing data", "no time", "error"]
"""``ok`` and ``miss``: against a target. ``figure``: there is no target. ``needs CUDA``: this machine cannot show it.
``left out``: the small form, or the family, has no such figure. ``no time``: it ran into the end of the call."""
COMPLETE: frozenset[State] = frozenset({"ok", "miss", "figure", "needs CUDA", "left out"})
"""States that a later call does not measure again."""
FAILED: frozenset[State] = frozenset({"miss", "error", "missing data"})
"""States of a call that has failed."""
LARGEST_FILE = 15 * 2**20
"""Bytes of the largest file that may lie below ``--out``."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table."""

    name: str
    state: State
    value: float | None = None
    unit: str = ""
    target: str = ""
    published: str = ""
    """What others have published for it, with its source."""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    """More values, for the JSON file only."""


def at_most(name: str, value: float, limit: float, unit: str = "", **more: Any) -> Row:
    """A row whose value must not be above ``limit``; NaN misses."""
    return Row(
        name=name, state="ok" if value <= limit else "miss", value=value, unit=unit, target=f"<= {limit:g}", **more
    )


def at_least(name: str, value: float, limit: float, unit: str = "", **more: Any) -> Row:
    """A row whose value must not be below ``limit``; NaN misses."""
    return Row(
        name=name, state="ok" if value >= limit else "miss", value=value, unit=unit, target=f">= {limit:g}", **more
    )


def holds(name: str, fact: bool, target: str, **more: Any) -> Row:
    """A row that is met or not, without a number."""
    return Row(name=name, state="ok" if fact else "miss", target=target, **more)


def largest(errors: Iterable[float]) -> float:
    """The largest error; NaN if one of them is. Python's ``max`` hides a NaN that is not the first."""
    found = list(errors)
    return math.nan if any(map(math.isnan, found)) else max(found)


def figure(name: str, value: float, unit: str = "", **more: Any) -> Row:
    """A row without a target."""
    return Row(name=name, state="figure", value=value, unit=unit, **more)


def needs_cuda(name: str, **more: Any) -> Row:
    """A row that only a machine with a card can show."""
    return Row(name=name, state="needs CUDA", **more)


def describe_machine() -> dict[str, Any]:
    """The card, its driver, the processor, and the versions of torch and what belongs to it."""
    import torch

    found: dict[str, Any] = {
        "card": "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "card": properties.name,
            "cards": torch.cuda.device_count(),
            "GiB": round(properties.total_memory / 2**30, 1),
            "driver": _driver(),
            "CUDA": torch.version.cuda or f"HIP {torch.version.hip}",
            "cuDNN": torch.backends.cudnn.version(),
        }
    return found


def _driver() -> str:
    """Version of the card's driver."""
    with suppress(OSError):  # Linux; unlike the tool, it answers whatever the card does
        if found := re.search(r"\d+\.[\d.]+", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")):
            return found[0]
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (no nvidia-smi)"
    return said[0] if said else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


class Record:
    """The rows of a part on disk, by item: written after each one, and read by the next call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {"machine": {}, "key": "", "names": [], "items": {}}
        if path.is_file():
            self.values = json.loads(path.read_text(encoding="utf-8"))

    @property
    def names(self) -> list[str]:
        """Names of the items that the last call asked for."""
        return self.values["names"]

    def begin(self, machine: dict[str, Any], key: str, names: list[str]) -> list[str]:
        """Keep the rows of earlier calls if machine and code are still the same, else forget them. Returns what is kept."""
        if (self.values["machine"], self.values["key"]) != (machine, key):
            self.values = {"machine": machine, "key": key, "items": {}}
        self.values["names"] = names
        write_json(self.path, self.values)
        return sorted(self.values["items"])

    def complete(self, item: str) -> bool:
        """Whether no row of ``item`` is left to measure."""
        rows = self.rows(item)
        return bool(rows) and all(row.state in COMPLETE for row in rows)

    def ran_out(self, item: str) -> bool:
        """Whether ``item`` ran into the end of a call."""
        return any(row.state == "no time" for row in self.rows(item))

    def tried_since(self, moment: float) -> list[str]:
        """Items measured, or begun, since a moment (``time.time``)."""
        return [name for name, entry in self.values["items"].items() if entry["at"] >= moment]

    def rows(self, item: str) -> list[Row]:
        """The rows of ``item``."""
        return [Row(**row) for row in self.values["items"].get(item, {}).get("rows", [])]

    def write(self, item: str, rows: Iterable[Row], seconds: float | None = None) -> None:
        """Replace the rows of ``item``."""
        self.values["items"][item] = {
            "rows": [asdict(row) for row in rows],
            "seconds": seconds,
            "at": time.time(),
        }
        write_json(self.path, self.values)


def table(record: Record) -> str:
    """The rows of the last call's items as aligned text, below a line that describes the machine."""
    rows = [row for name in record.names for row in record.rows(name)]
    lines = [("", "figure", "target", "published", "")]
    for row in rows:
        value = "-" if row.value is None else f"{_short(row.value)} {row.unit}".rstrip()
        lines.append((row.name, value, row.target or "-", row.published or "-", row.state))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = [", ".join(f"{name} {value}" for name, value in record.values["machine"].items()), ""]
    for index, (name, *cells, state) in enumerate(lines):
        middle = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:4], strict=True))
        text.append(f"{name:<{widths[0]}}  {middle}  {state}".rstrip())
        if index and (note := rows[index - 1].note):
            text += textwrap.wrap(note, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(text)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


def summary(record: Record) -> str:
    """How many rows are in each state, and how many items have not been measured."""
    names = record.names
    counts = Counter(row.state for name in names for row in record.rows(name))
    left = sum(not record.complete(name) for name in names)
    said = [f"{count} {state}" for state, count in counts.items()]
    return ", ".join([*said, *([f"{left} of {len(names)} items left for the next call"] if left else [])])


def failed(record: Record) -> bool:
    """Whether a row misses its target, or could not be measured by an error or for lack of data."""
    return any(row.state in FAILED for name in record.names for row in record.rows(name))


def too_large(folder: Path) -> list[Path]:
    """Files below ``folder`` that are larger than :data:`LARGEST_FILE`."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_FILE]
