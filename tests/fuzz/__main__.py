"""Read fuzzed inputs of one or all kinds: ``python -m tests.fuzz [--kind NAME] [--inputs N] [--seed N] [--only NUMBER]``.

Kind, seed and number determine an input. An input must be read, or refused with a GantryError. Anything else is a fault:
another exception, more than 2 s of CPU time, memory beyond the limit, a file outside the target, the end of the process.
"""

import argparse
import contextlib
import faulthandler
import gc
import io
import logging
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from gan_core.errors import GantryError
from tests.fuzz.targets import TARGETS

SECONDS = 2.0
"""Limit on the CPU time for one input."""
GROWTH = 1536
"""Limit on the memory growth of the process for one input, MiB: three copies of the largest picture that is read."""
_HANG = 120.0
"""Seconds of wall time after which the process prints its stack and ends."""
_SHOWN = 25


def run(kind: str, inputs: int, seed: int, only: int | None = None) -> list[str]:
    """Read ``inputs`` inputs of ``kind``, print a summary line, and return the faults."""
    target, faults, counts, slowest = TARGETS[kind], [], {"read": 0, "refused": 0}, 0.0
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="gantry-fuzz-") as scratch:
        last = Path(scratch) / "last"
        for number in range(inputs) if only is None else [only]:
            print(f"\r{kind} {number}", end="", file=sys.stderr, flush=True) if sys.stderr.isatty() else None
            last.write_text(str(number))
            place = Path(scratch) / "place"
            place.mkdir()
            given = target.make(Random(f"{kind} {seed} {number}"))
            faulthandler.dump_traceback_later(_HANG, exit=True)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            fault = ""
            try:
                with contextlib.redirect_stderr(io.StringIO()) if only is None else contextlib.nullcontext():
                    target.read(given, place)
                counts["read"] += 1
            except GantryError as error:
                counts["refused"] += 1
                if not str(error).strip():
                    fault = "refused without a message"
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)
                ours = next(
                    (f"{at.filename.rpartition('/')[2]}:{at.lineno}" for at in reversed(where) if _is_ours(at)), ""
                )
                fault = f"{type(error).__name__} at {ours}: {str(error)[:150]!r}"
                if only is not None:
                    traceback.print_exc()
            took = time.process_time() - began
            slowest = max(slowest, took)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
            faulthandler.cancel_dump_traceback_later()
            if not fault and took > SECONDS:
                fault = f"took {took:.1f} s of CPU time"
            if not fault and grown > GROWTH:
                fault = f"grew by {grown} MiB"
            if fault:
                faults.append(f"{kind} {number} ({given.name}): {fault}")
            shutil.rmtree(place)
            if number % 500 == 499:
                gc.collect()
    spent = time.process_time() - start
    print(
        f"{kind:10} {sum(counts.values()) + len(faults):6} inputs {counts['read']:6} read {counts['refused']:6} refused "
        f"{len(faults):4} faults {spent:6.1f} s, {1000 * slowest:5.0f} ms at most"
    )
    return faults


def _is_ours(at: traceback.FrameSummary) -> bool:
    return any(part in at.filename for part in ("/gan_core/", "/pipelines/"))


def main() -> int:
    """Run from the command line; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        prog="tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--kind", choices=list(TARGETS), action="append", help="kind of input, may be repeated; default: all"
    )
    parser.add_argument("--inputs", type=int, help="number of inputs of each kind; default: as in make test")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--only", type=int, help="read only this input, and print its traceback")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # Above the limits here, but within the memory of the machine.
    resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, resource.RLIM_INFINITY))
    faults = []
    for kind in options.kind or TARGETS:
        inputs = TARGETS[kind].inputs if options.inputs is None else options.inputs
        faults += run(kind, inputs, options.seed, options.only)
    for fault in faults[:_SHOWN]:
        print(fault)
    if len(faults) > _SHOWN:
        print(f"... and {len(faults) - _SHOWN} more")
    if faults:
        print("To see a traceback: python -m tests.fuzz --kind KIND --only NUMBER")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
