"""Measure the items of a part one after the other in this process, and record the rows of each."""

import fnmatch
import importlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gan_core.files import read_json, sha256_file, sha256_json, write_json
from tests.gpu.report import Record, Row, describe_machine

ROOT = Path(__file__).parents[2]
PARTS = ("correct", "speed", "train", "translate", "scale")
RUNNING = "running.json"
"""File in the work folder that names the item being measured."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    part: str
    family: str | None
    """Of the parts ``train`` and ``translate``."""
    out: Path
    """Folder for tables, JSON and pictures."""
    work: Path
    """Folder for what is not wanted back: decoded data, checkpoints."""
    pack: Path
    """Folder of the pieces."""
    since: float
    """Time at which the call began."""
    deadline: float
    """Time by the machine's clock (``time.time``) at which all must have ended."""
    small: bool
    only: str
    """Pattern of the names of items."""
    kimg: float | None = None
    """Length of a run in thousand images; None for that of the family."""

    @property
    def record(self) -> Path:
        """The JSON file of the part."""
        return self.out / (f"{self.part}-{self.family}" if self.family else self.part) / "rows.json"

    @property
    def folder(self) -> Path:
        """Folder of the part below :attr:`out`."""
        return self.record.parent

    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.time()


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to measure at once."""

    name: str
    rows: Callable[[], Iterable[Row]]
    seconds: float = 20.0
    """Seconds that it takes at least; with less time left it is not begun."""
    goes_on: bool = False
    """Whether each call adds to the same rows, as a training run does."""


def items_of(options: Options) -> list[Item]:
    """The items of the part that match ``only``."""
    module = "quality" if options.part in ("train", "translate") else options.part
    items: list[Item] = importlib.import_module(f"tests.gpu.{module}").items(options)
    return [item for item in items if fnmatch.fnmatch(item.name, options.only)]


def code_files() -> list[Path]:
    """The files whose code the rows come from."""
    folders = ("gan_core", "tests/bench", "tests/gpu")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return [*files, *(ROOT / "tests" / name for name in ("datasets.py", "recorded.py"))]


def code_key(options: Options) -> str:
    """Digest of the code and of the form, small or whole: rows of another one are not kept."""
    return sha256_json([options.small, {str(path.relative_to(ROOT)): sha256_file(path) for path in code_files()}])


def measure(options: Options) -> None:
    """Measure what is left of the part, each item once in a call."""
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["GANTRY_CACHE_DIR"] = str(options.work / "cache")
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(options.work / "compiled")
    )  # what a later call need not compile
    if options.small:
        import torch

        torch.set_num_threads(1)  # for small networks, more threads only wait for each other
    items, record = items_of(options), Record(options.record)
    if kept := record.begin(describe_machine(), code_key(options), [item.name for item in items]):
        log.info("Going on: %d items are known from earlier calls.", len(kept))
    tried = record.tried_since(options.since)
    # What took all the time of an earlier call comes last: else no other item would ever be measured.
    for number, item in enumerate(sorted(items, key=lambda item: record.ran_out(item.name)), start=1):
        if item.name in tried or (record.complete(item.name) and not item.goes_on):
            continue
        if options.left() < item.seconds:
            log.info("[%d/%d] %s: left for the next call", number, len(items), item.name)
            continue
        write_json(options.work / RUNNING, item.name)
        started = time.perf_counter()
        rows = list(_measured(item))
        seconds = time.perf_counter() - started
        record.write(item.name, rows, round(seconds, 1))
        (options.work / RUNNING).unlink()
        log.info("[%d/%d] %s: %s in %.0f s", number, len(items), item.name, _states(rows), seconds)
        if any(row.state == "error" and "CUDA" in row.note for row in rows):
            break  # nothing more can be trusted to this process; the caller starts another one


def _measured(item: Item) -> Iterator[Row]:
    """The rows of an item; the last one tells of an error that ended it."""
    try:
        # Not "yield from" a list: the rows before an error count.
        yield from (replace(row, name=f"{item.name}: {row.name}" if row.name else item.name) for row in item.rows())
    except Exception as error:  # whatever went wrong with one item, the others can be measured
        log.warning("%s", traceback.format_exc())
        yield Row(name=item.name, state="error", note=f"{type(error).__name__}: {error}"[:600])


def _states(rows: list[Row]) -> str:
    found = sorted({row.state for row in rows})
    return ", ".join(found) or "nothing"


def running(work: Path) -> str | None:
    """The item that a worker was measuring when it was ended."""
    path = work / RUNNING
    return read_json(path) if path.is_file() else None
