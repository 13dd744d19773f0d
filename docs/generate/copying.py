"""Train a GAN on 64 digits until it has learnt them by heart, and one on many: does `memorisation` tell them apart?

Two runs of DCGAN with the same settings and seed on digits of scikit-learn at 16x16 pixels, one on 64 training pictures, one
on all 1,437 of them. Both are measured at the same steps, beside the same 360 held-out digits. Features are the pixels at 8x8,
so that no weights are needed. The page "Measurement protocols" has the result.

    python docs/generate/copying.py OUT docs/images/copying.svg

A run that is interrupted goes on. OUT/figures.json holds the figures.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from prepared import write_prepared
from sklearn.datasets import load_digits
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.families import family_config
from gan_core.files import read_json, write_json
from gan_core.images.grid import save_sheet
from gan_core.metrics.assess import assess
from gan_core.metrics.copying import pairs_sheet
from gan_core.metrics.inception import Extractor
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer

HELD_OUT = 360
MODEL = {"width": 32, "latent": 8, "prior": "normal"}
RATE = 1e-3
RUNS = {"64": 64, "all": None}
"""Training pictures by name of the run; None for all."""
SHOWN = ("fid", "precision", "recall", "memorisation")
STEPS, EVERY, BATCH = 1500, 750, 64
SIDE, SAMPLES = 8, 500


class Pixels(Extractor):
    """Features of digits: their 64 pixels."""

    def __init__(self) -> None:
        self.features, self.precision, self.resize = SIDE**2, "fp32", f"average-{SIDE}"
        self.device, self.batch_size, self.digest = torch.device("cpu"), 256, "pixels"

    def prepare(self, images: Tensor) -> Tensor:
        """Uint8 (N, 1, 16, 16) to float (N, 1, 8, 8)."""
        return F.adaptive_avg_pool2d(images.float() / 255, SIDE)

    def extract(self, inputs: Tensor) -> Tensor:
        """The pixels, (N, 64)."""
        return inputs.flatten(1)


def prepare(folder: Path, count: int | None) -> PreparedDataset:
    """Prepare ``count`` of the training digits (None: all) and the held-out ones, unless they are prepared."""
    if (folder / "dataset.json").is_file():
        return PreparedDataset(folder, folder.parent / "decoded")
    digits = (load_digits().images * 15.9).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    order = np.random.RandomState(0).permutation(len(digits))
    train = digits[order[HELD_OUT:]][:count]
    return write_prepared(folder, f"{len(train)} digits", {"train": train, "test": digits[order[:HELD_OUT]]})


def train(data: PreparedDataset, out: Path, measured: dict[str, dict[str, Any]]) -> None:
    """Train on ``data``, and measure every :data:`EVERY` steps, unless that is in ``measured``."""
    run = data.info.name
    config = TrainConfig(
        steps=STEPS,
        batch=BATCH,
        generator_lr=RATE,
        discriminator_lr=RATE,
        ema_half_life_kimg=1.0,
        precision="fp32",
        checkpoint_every=EVERY,
        sample_every=STEPS,
        log_every=50,
        seed=0,
    )
    trainer = Trainer("dcgan", family_config("dcgan", MODEL), data, config, out / run.replace(" ", "-"), device="cpu")
    while trainer.step < STEPS:
        trainer.run(until=trainer.step + EVERY)
        if str(trainer.step) in measured.setdefault(run, {}):
            continue
        trainer.generator.update_statistics()
        found = assess(
            trainer.generator,
            data,
            split="test",
            count=SAMPLES,
            seed=0,
            extractor=Pixels(),
            generator_digest=f"{run} {trainer.step}",
            real_count=HELD_OUT,
            cache_dir=out / "features",
        )
        figures = {figure.name: figure.as_dict() for figure in found.figures if figure.name in SHOWN}
        copying = found.findings.copying
        assert copying is not None
        measured[run][str(trainer.step)] = {**figures, "p_value": copying.p_value}
        write_json(out / "figures.json", measured)
        assert found.findings.pairs is not None
        save_sheet(out / f"{run.replace(' ', '-')}-pairs.png", pairs_sheet(found.findings.pairs), columns=8)
        copied = figures["memorisation"]
        print(
            f"{run}, step {trainer.step}: memorisation {copied['value']:.3f} [{copied['low']:.3f}, {copied['high']:.3f}], "
            f"without copying {copied['baseline']:.3f}, p = {copying.p_value:.2g}; precision "
            f"{figures['precision']['value']:.3f}, recall {figures['recall']['value']:.3f}",
            flush=True,
        )


def draw(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the share of near pictures against the step, with intervals, for both runs."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "gantry", "font.size": 9, "svg.fonttype": "path"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for (run, points), colour in zip(measured.items(), ("#c62828", "#3f51b5"), strict=True):
        steps = [int(step) for step in points]
        found = [point["memorisation"] for point in points.values()]
        axes.plot(
            steps, [one["value"] for one in found], marker="o", markersize=3, color=colour, label=f"trained on {run}"
        )
        axes.fill_between(
            steps, [one["low"] for one in found], [one["high"] for one in found], color=colour, alpha=0.15
        )
    axes.axhline(found[-1]["baseline"], color="#7a7a7a", linewidth=1, linestyle="--", label="held-out digits")
    axes.set(xlabel="step", ylabel="memorisation", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the measurement, print what it shows, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("picture", type=Path, help="picture to write, .svg or .png")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="those to train; default both")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the networks are small, and results depend on the number of threads
    path = options.out / "figures.json"
    measured: dict[str, dict[str, Any]] = read_json(path) if path.is_file() else {}
    for name, count in RUNS.items():
        if name in options.runs:
            train(prepare(options.out / name / "prepared", count), options.out, measured)
    if len(measured) == len(RUNS):
        draw(measured, options.picture)


if __name__ == "__main__":
    main()
