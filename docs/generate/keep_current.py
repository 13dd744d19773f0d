"""Measure what `train.start_from` saves when data grows, and draw the curves for the guide "Keep it current".

Three runs of DCGAN with the same settings: a champion on the first pictures; then, on 20 % more pictures, one run that starts
from the champion and one from random weights. All FIDs are measured on the larger data under one protocol.

    gantry data fetch fashion-mnist
    python docs/generate/keep_current.py data/raw/fashion-mnist OUT docs/images/keep-current.svg
    gantry data fetch cifar10
    python docs/generate/keep_current.py data/raw/cifar10 OUT docs/images/keep-current-photographs.svg

A run that is interrupted goes on. OUT/curves.json holds the figures.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from prepared import write_prepared

from gan_core.config import as_dict
from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.files import read_json, write_json
from gan_core.metrics.assess import assess
from gan_core.metrics.inception import load_inception
from gan_core.training.config import TrainConfig
from gan_core.training.start import Start, open_start
from gan_core.training.trainer import Trainer

PICTURES, MORE = 10_000, 0.2
MODEL = {"width": 16}
BATCH, RATE = 64, 4e-4
STEPS = {"champion": 1500, "from the champion": 300, "from random weights": 2100}
EVERY = {"champion": 1500, "from the champion": 50, "from random weights": 150}
FEATURES, SAMPLES = 192, 1000


def prepare(raw: Path, folder: Path, count: int) -> PreparedDataset:
    """Prepare the first ``count`` training pictures at 32x32 pixels, unless they are prepared."""
    if (folder / "dataset.json").is_file():
        return PreparedDataset(folder, folder.parent / "decoded")
    if (raw / "train-images-idx3-ubyte").is_file():
        content = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8, count * 28 * 28, offset=16)
        pixels = np.pad(content.reshape(count, 28, 28), ((0, 0), (2, 2), (2, 2)))
    else:
        records = np.concatenate([np.fromfile(raw / f"data_batch_{n}.bin", np.uint8) for n in (1, 2)])
        pixels = records.reshape(-1, 1 + 3 * 32 * 32)[:count, 1:].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
    return write_prepared(folder, raw.name, {"train": np.ascontiguousarray(pixels)})


class Measured:
    """FIDs by run and step, kept in a file."""

    def __init__(self, path: Path, data: PreparedDataset) -> None:
        self.path, self.data = path, data
        self.values: dict[str, dict[str, float]] = read_json(path)["fid"] if path.is_file() else {}
        self._extractor = load_inception("cpu", features=FEATURES)
        self.protocol = ""

    def measure(self, trainer: Trainer, run: str) -> None:
        """Measure the averaged generator of ``trainer`` unless that is done."""
        if str(trainer.step) in self.values.setdefault(run, {}):
            return
        trainer.generator.update_statistics()
        figure = assess(
            trainer.generator,
            self.data,
            split="train",
            count=SAMPLES,
            seed=0,
            extractor=self._extractor,
            generator_digest=f"{run} {trainer.step}",
            cache_dir=self.path.parent / "statistics",
            full=False,
        ).objective
        self.values[run][str(trainer.step)] = figure.value
        described = {"protocol": as_dict(figure.protocol), "stamp": figure.protocol.stamp}
        write_json(self.path, {"fid": self.values, "pictures": self.data.info.splits, **described})
        print(f"{run}, step {trainer.step}: FID {figure.value:.2f} ({figure.protocol.stamp})", flush=True)


def train(run: str, data: PreparedDataset, out: Path, measured: Measured, start: Start | None = None) -> Trainer:
    """Train one of the runs, and measure it at its steps; one that starts from another also at step 0."""
    begun = {"start_from": start.name, "warm_up_kimg": 1.0} if start else {}
    config = TrainConfig(
        steps=STEPS[run],
        batch=BATCH,
        generator_lr=RATE,
        discriminator_lr=RATE,
        ema_half_life_kimg=5.0,
        checkpoint_every=EVERY[run],
        sample_every=10_000,
        log_every=50,
        save_start="full",
        seed=1 if start else 0,
        **begun,
    )
    name = run.replace(" ", "-")
    trainer = Trainer("dcgan", family_config("dcgan", MODEL), data, config, out / name, device="cpu", start=start)
    while True:
        if trainer.step or start:
            measured.measure(trainer, run)
        if trainer.step >= config.steps:
            return trainer
        trainer.run(until=trainer.step + EVERY[run])


def draw(values: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the curves of both runs on the larger data, and the champion's FID."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "gantry", "font.size": 9, "svg.fonttype": "path"})
    import matplotlib.pyplot as plt

    (champion,) = values["champion"].values()
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for run, colour in (("from random weights", "#7a7a7a"), ("from the champion", "#3f51b5")):
        points = sorted((int(step), value) for step, value in values[run].items())
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=run)
    axes.axhline(champion, color="#c62828", linewidth=1, linestyle="--", label="champion, on the larger data")
    axes.set(xlabel="step", ylabel=f"FID ({FEATURES} features), log scale", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def first_step(points: dict[str, float], target: float) -> int | None:
    """The first measured step after 0 from which on all measured FIDs are at most ``target``."""
    steps = sorted(int(step) for step in points if step != "0")
    good = [step for step in steps if all(points[str(later)] <= target for later in steps if later >= step)]
    return good[0] if good else None


def main() -> None:
    """Run the measurement, print what it shows, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder of the raw data: that of Fashion-MNIST or CIFAR-10")
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("picture", type=Path, help="picture to write, .svg or .png")
    options = parser.parse_args()
    out = options.out
    before = prepare(options.raw, out / "before" / "prepared", PICTURES)
    after = prepare(options.raw, out / "after" / "prepared", int(PICTURES * (1 + MORE)))
    measured = Measured(out / "curves.json", after)
    champion = train("champion", before, out, measured)
    champion.export_start(out / "start")
    train("from the champion", after, out, measured, open_start(out / "start", "champion"))
    train("from random weights", after, out, measured)
    draw(measured.values, options.picture)
    (target,) = measured.values["champion"].values()
    steps = {run: first_step(measured.values[run], target) for run in STEPS if run != "champion"}
    print(json.dumps({"champion": target, "steps to the champion's FID": steps}))


if __name__ == "__main__":
    main()
