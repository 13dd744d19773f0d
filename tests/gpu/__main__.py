"""``python -m tests.gpu PART [FAMILY] [--out DIR] [--minutes 9]``: what a card can do, each part by one command.

``pack`` fills a folder with data and weights, on a machine with a network. The other parts need that folder, PyTorch, NumPy,
Pillow, pyarrow and safetensors, no network, and none of Gantry's other requirements. Each ends inside its minutes and goes on
when it is called again. It writes ``rows.json``, ``table.txt`` and PNGs into a folder below ``--out`` (no file above 15 MiB),
and prints the table. Without a card it measures what a processor can show; rows that need one say so. ``all`` runs all parts
for all families, each in its own minutes.
"""

import argparse
import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gan_core.errors import GantryError
from gan_core.files import write_text
from tests.gpu.report import Record, Row, failed, summary, table, too_large
from tests.gpu.worker import PARTS, ROOT, RUNNING, Options, items_of, measure, running

FAMILY_PARTS = ("train", "translate")
LOG = "log.txt"
RESERVE = 15.0
"""Seconds that are kept for ending a worker and printing the table."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("pack", *PARTS, "all"))
    parser.add_argument("family", nargs="?", help="family to train or to translate with")
    parser.add_argument("--out", type=Path, default=Path("var/gpu/out"), help="results (default var/gpu/out)")
    parser.add_argument(
        "--work", type=Path, default=Path("var/gpu/work"), help="checkpoints, decoded data (default var/gpu/work)"
    )
    parser.add_argument(
        "--pack", type=Path, default=Path("var/gpu/pack"), help="data and weights (default var/gpu/pack)"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="end after this time (default 9)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="items to measure, such as 'dcgan*'")
    parser.add_argument(
        "--kimg", type=float, help="length of a training run in thousand images (default: the family's)"
    )
    parser.add_argument(
        "--small", action="store_true", help="the smallest form, to see on a processor that all of it runs"
    )
    parser.add_argument("--list", action="store_true", help="list the items of the part")
    # Of the process that measures: when the call began, and when it must have ended.
    parser.add_argument("--worker", type=float, nargs=2, metavar=("SINCE", "DEADLINE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if (options.part in FAMILY_PARTS) != (options.family is not None):
        parser.error(f"{options.part} needs a family" if options.family is None else f"{options.part} takes no family")
    if not RESERVE < 60 * options.minutes < math.inf:
        parser.error(f"--minutes {options.minutes:g}: {RESERVE:g} seconds of them are for the end; give more")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run a part.

    Returns:
        1 if a target was missed, or something could not be measured by an error or for lack of data; 2 if no item matches.
    """
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("gan_core").setLevel(logging.WARNING)
    if options.part == "pack":
        from tests.gpu.pack import fill

        for said in fill(options.pack, small=options.small):
            print(said, flush=True)
        return 0
    if options.part == "all":
        return run_all(options)
    since, deadline = options.worker or (time.time(), time.time() + 60 * options.minutes - RESERVE)
    plan = Options(
        part=options.part,
        family=options.family,
        out=options.out.resolve(),
        work=options.work.resolve(),
        pack=options.pack.resolve(),
        since=since,
        deadline=deadline,
        small=options.small,
        only=options.only,
        kimg=options.kimg,
    )
    if options.list:
        names = [item.name for item in items_of(plan)]
        print("\n".join(names))
        return 0 if names else 2
    if options.worker:
        signal.setitimer(signal.ITIMER_REAL, max(plan.left(), 0) + RESERVE)  # ends it, should its parent be killed
        measure(plan)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the worker is ended too
    supervise(plan)
    return report(plan)


def run_all(options: argparse.Namespace) -> int:
    """Every part for every family, one after the other; 1 if one of them is, and 2 if all are, because no item matches."""
    from gan_core.families import families_that_can
    from gan_core.families.noise import NoiseFamily
    from gan_core.families.translation import TranslationFamily

    calls = [["correct"], ["speed"], ["scale"]]
    calls += [["train", name] for name in families_that_can(NoiseFamily)]
    calls += [["translate", name] for name in families_that_can(TranslationFamily)]
    values = {"--minutes": options.minutes, "--out": options.out, "--work": options.work, "--pack": options.pack}
    values |= {"--only": options.only, **({} if options.kimg is None else {"--kimg": options.kimg})}
    shared = [str(word) for flag, value in values.items() for word in (flag, value)]
    shared += [flag for flag, given in (("--small", options.small), ("--list", options.list)) if given]
    statuses = set()
    for call in calls:
        print(f"== {' '.join(call)}", flush=True)
        try:
            statuses.add(main([*call, *shared]))
        except GantryError as error:  # the other parts may run
            print(f"error: {error}", file=sys.stderr)
            statuses.add(1)
    return next(status for status in (1, 0, 2) if status in statuses)


def supervise(plan: Options) -> None:
    """Measure in a process of its own, which is ended at the deadline, and started again for the rest if an item broke it."""
    plan.work.mkdir(parents=True, exist_ok=True)
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.work / RUNNING).unlink(missing_ok=True)
    before = 0
    while plan.left() > 0:
        status = _run_worker(plan)
        record, item = Record(plan.record), running(plan.work)
        if item is not None:
            over = plan.left() <= 0
            note = "ended with the call" if over else f"its process ended with status {status}; see log.txt"
            record.write(item, [Row(name=item, state="no time" if over else "error", note=note)])
            (plan.work / RUNNING).unlink()
            continue
        if status != 0 and plan.left() > 0:
            raise GantryError(f"The process that measures ended with status {status}. See {plan.folder / LOG}.")
        tried = record.tried_since(plan.since)
        # It stops early if CUDA has failed; another process can go on.
        broken = any(row.state == "error" and "CUDA" in row.note for name in tried for row in record.rows(name))
        if not (broken and len(tried) > before and set(record.names) - set(tried)):
            break
        before = len(tried)


def _run_worker(plan: Options) -> int:
    """Exit status of a process that measures; its output goes to the log."""
    flags = {"--out": plan.out, "--work": plan.work, "--pack": plan.pack, "--only": plan.only, "--kimg": plan.kimg}
    command = [sys.executable, "-m", "tests.gpu", plan.part, *([plan.family] if plan.family else [])]
    command += [str(word) for flag, value in flags.items() if value is not None for word in (flag, value)]
    command += [*(["--small"] if plan.small else []), "--worker", str(plan.since), str(plan.deadline)]
    with open(plan.folder / LOG, "a", encoding="utf-8") as log:
        # In a group of its own, so that the processes that it starts end with it.
        worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(plan.left(), 0) + RESERVE / 3)
        finally:
            _end(worker)
    return worker.returncode


def _end(worker: "subprocess.Popen[bytes]") -> None:
    """End the worker and the processes that it started."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(RESERVE / 3)
            if kind == signal.SIGTERM:
                return


def report(plan: Options) -> int:
    """Print the table and write it beside the rows; 1 if a row failed or a file is too large, 2 if no item matches."""
    record = Record(plan.record)
    if not record.names:
        print(
            f"No item of {plan.part} matches --only {plan.only} (--list names them), or the time was over at once.",
            file=sys.stderr,
        )
        return 2
    text = f"{table(record)}\n\n{summary(record)}\n"
    write_text(plan.folder / "table.txt", text)
    print(text)
    for path in too_large(plan.folder):
        print(f"{path} is larger than 15 MiB", file=sys.stderr)
    return int(failed(record) or bool(too_large(plan.folder)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GantryError as error:
        sys.exit(f"error: {error}")
