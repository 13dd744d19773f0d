"""``python -m tests.budget``: train with the choices of ``auto``, and with others in their place, for some minutes each.

Each run is ``python -m gan_core.train --preset auto --minutes M``, with the settings of a trial. The FID of its averaged
generator is measured after it, outside the budget. A row is written after each run, so that another call goes on with what is
left. At the end, a table shows the trials of each family, data set and budget, best first. Run nothing else on the machine.

The data are drawn faces at 64x64, CIFAR-10 and Fashion-MNIST at 32x32, from the folder of ``python -m tests.gpu pack``.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gan_core.data import PreparedDataset
from gan_core.files import read_json
from gan_core.images.grid import save_sheet
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import load_generator
from gan_core.metrics.assess import assess
from gan_core.metrics.inception import load_inception
from tests.gpu.pack import Pack

ROOT = Path(__file__).parents[2]
DATA = ("drawn", "cifar10", "fashion-mnist")
TRIALS: dict[str, tuple[str, ...]] = {
    "dcgan": (
        "",
        "--batch 8",
        "--batch 32",
        "--batch 64",
        "--model width=24",
        "--model width=96",
        "--generator-lr 4e-4 --discriminator-lr 4e-4",
        "--batch 64 --generator-lr 4e-4 --discriminator-lr 4e-4",
        '--augment "{kind: none}"',
    ),
    "stylegan2": (
        "",
        "--batch 8",
        "--batch 32",
        "--model channel_base=1024 --model channel_max=32",
        "--model channel_base=4096 --model channel_max=128",
        "--generator-lr 5e-3 --discriminator-lr 5e-3",
        '--augment "{kind: none}"',
        '--augment "{kind: diffaugment}"',
    ),
}
"""Options of ``gan_core.train`` in place of choices of ``auto``; the empty trial is ``auto`` itself."""
SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run."""

    family: str
    data: str
    minutes: float
    trial: str
    fid: float
    steps: int
    kimg: float
    images_per_second: float
    """Of the steps, without checkpoints and grids."""
    seconds: float
    """Of the whole command, with its start."""

    @property
    def key(self) -> tuple[str, str, float, str]:
        """What was run."""
        return self.family, self.data, self.minutes, self.trial


def train(family: str, data: Path, minutes: float, trial: str, out: Path) -> float:
    """Train one trial into ``out``; returns the seconds of the command."""
    command = [sys.executable, "-m", "gan_core.train", "--family", family, "--data", str(data), "--out", str(out)]
    # Few checkpoints and grids: they are not what is compared. The first checkpoint may not be due after the budget.
    command += ["--preset", "auto", "--minutes", f"{minutes:g}", "--log-every", "20", "--sample-every", "1000000"]
    began = time.monotonic()
    with open(out.with_suffix(".log"), "wb") as log:
        subprocess.run([*command, *shlex.split(trial)], cwd=ROOT, stdout=log, stderr=log, check=True)
    return time.monotonic() - began


def judge(
    family: str, name: str, data: PreparedDataset, minutes: float, trial: str, out: Path, seconds: float
) -> Outcome:
    """Measure the generator of a run, and write its pictures beside the run."""
    generator = load_generator(out / "generator")
    save_sheet(out.with_suffix(".png"), generator.sample(64, seed=0), columns=8)
    figure = assess(
        generator,
        data,
        split="train",
        count=SAMPLES,
        seed=0,
        extractor=load_inception("cpu"),
        generator_digest=generator_digest(out / "generator"),
        full=False,
    ).objective
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = sorted(row["rate/images_per_second"] for row in rows)
    return Outcome(
        family=family,
        data=name,
        minutes=minutes,
        trial=trial,
        fid=figure.value,
        steps=int(read_json(out / "length.json")["steps"]),
        kimg=rows[-1]["progress/kimg"],
        images_per_second=rates[len(rates) // 2],
        seconds=round(seconds, 1),
    )


def run_all(options: argparse.Namespace, pack: Pack) -> Iterator[Outcome]:
    """The runs that are left, one after the other; each has been written to the file of outcomes when it is yielded."""
    known = {outcome.key for outcome in read_outcomes(options.out / "outcomes.jsonl")}
    for minutes in options.minutes:
        for name in options.data:
            data = pack.dataset(name)
            for family in options.families:
                for number, trial in enumerate(options.trials or TRIALS[family]):
                    if (family, name, minutes, trial) in known:
                        continue
                    out = options.out / f"{family}-{name}-{minutes:g}" / str(number)
                    shutil.rmtree(out, ignore_errors=True)  # of a call that was ended: the budget is for the whole run
                    out.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        seconds = train(family, pack.folder / name, minutes, trial, out)
                    except subprocess.CalledProcessError:
                        said = out.with_suffix(".log").read_text(encoding="utf-8").splitlines()[-1]
                        print(
                            f"{family} on {name}, {minutes:g} minutes, '{trial}': {said}", file=sys.stderr, flush=True
                        )
                        continue  # it is tried again in the next call
                    outcome = judge(family, name, data, minutes, trial, out, seconds)
                    with open(options.out / "outcomes.jsonl", "a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(outcome)) + "\n")
                    shutil.rmtree(out)
                    yield outcome


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes of earlier calls."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Outcome(**json.loads(line)) for line in lines]


def table(outcomes: Iterable[Outcome]) -> str:
    """The trials of each family, data set and budget, best first, with the FID of ``auto`` for comparison."""
    groups: dict[tuple[str, str, float], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.family, outcome.data, outcome.minutes), []).append(outcome)
    lines = []
    for (family, name, minutes), members in groups.items():
        lines += [
            "",
            f"{family} on {name}, {minutes:g} minutes",
            f"{'FID-1k':>8} {'kimg':>7} {'images/s':>9}  in place of auto",
        ]
        for one in sorted(members, key=lambda member: member.fid):
            said = one.trial or "(auto)"
            lines.append(f"{one.fid:8.1f} {one.kimg:7.1f} {one.images_per_second:9.0f}  {said}")
    return "\n".join(lines[1:])


def main(arguments: list[str] | None = None) -> None:
    """Run what is left, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.budget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0], help="budgets (default 5)")
    parser.add_argument("--families", nargs="+", default=list(TRIALS), choices=list(TRIALS), metavar="FAMILY")
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA, metavar="DATA")
    parser.add_argument(
        "--trials", nargs="+", metavar="OPTIONS", help='such as "" "--batch 32" (default: those of the family)'
    )
    parser.add_argument(
        "--pack", type=Path, default=Path("var/gpu/pack"), help="data and weights (default var/gpu/pack)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("var/budget"), help="outcomes, logs and pictures (default var/budget)"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pack = Pack(options.pack, options.out)
    if lack := pack.lacks(*options.data, "weights"):
        sys.exit(f"error: {lack}")
    pack.use_weights()
    for outcome in run_all(options, pack):
        print(f"{outcome.key}: FID {outcome.fid:.1f}", file=sys.stderr, flush=True)
    print(table(read_outcomes(options.out / "outcomes.jsonl")))


if __name__ == "__main__":
    main()
