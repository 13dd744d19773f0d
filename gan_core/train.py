"""Train a family on a prepared dataset on one device: ``python -m gan_core.train --data DIR --family dcgan --out DIR``.

Needs nothing but PyTorch and the data. Killed and started again with the same arguments, it goes on where it was.
"""

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from tqdm import tqdm

from gan_core.config import as_dict, build
from gan_core.data import PreparedDataset
from gan_core.errors import GantryError, SettingsError
from gan_core.families import FAMILIES, family_config
from gan_core.files import write_text
from gan_core.grid import save_sheet
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer


class Console:
    """An observer with a progress bar, a ``metrics.jsonl`` and a picture grid per ``sample_every`` steps."""

    def __init__(self, out: Path, steps: int) -> None:
        self._out = out
        self._bar = tqdm(total=steps, unit="step", desc="train", dynamic_ncols=True, mininterval=1)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Append to the file, move the bar."""
        with open(self._out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(
            f"{values['rate/images_per_second']:.0f} images/s, D {values['loss/discriminator']:.2f}, "
            f"G {values['loss/generator']:.2f}, diversity {values['health/diversity']:.2f}"
        )

    def pictures(self, pictures: Tensor, step: int) -> None:
        """Write the grid of this step."""
        save_sheet(self._out / "grids" / f"step-{step:08d}.png", pictures)

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Move the bar."""
        self._bar.update(step - self._bar.n)

    def resume(self, step: int) -> None:
        """Start at ``step``; drop the rows that a killed run logged after its last checkpoint: they come again."""
        self._bar.update(step - self._bar.n)
        file = self._out / "metrics.jsonl"
        if file.is_file():
            # What is behind the last line's end was cut short by the kill.
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            write_text(file, "".join(line for line in whole if json.loads(line)["step"] <= step))

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every setting of a training run is an option of its own name."""
    parser = argparse.ArgumentParser(prog="python -m gan_core.train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="folder of a prepared dataset (has dataset.json)")
    parser.add_argument("--family", default="dcgan", help=f"one of: {', '.join(FAMILIES)}")
    parser.add_argument("--out", required=True, type=Path, help="checkpoints, grids, metrics and the generator go here")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=VALUE", help="a setting of the family, such as width=64"
    )
    for name, default in as_dict(TrainConfig()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, help=f"YAML; default {json.dumps(default)}")
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace) -> tuple[Any, TrainConfig]:
    """The typed configurations of the family and of the run; raises SettingsError."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    written = {name: yaml.safe_load(value) for name, value in given.items() if value is not None}
    train = build(TrainConfig, written, where="train")
    model = {}
    for pair in options.model:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--model {pair}: write NAME=VALUE.")
        model[name] = yaml.safe_load(value)
    return family_config(options.family, model), train


def main(arguments: list[str] | None = None) -> None:
    """Train, export the averaged generator to ``OUT/generator``."""
    options = parse(arguments)
    family, train = settings(options)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(options.out, train.steps)
    try:
        trainer = Trainer(
            options.family,
            family,
            PreparedDataset(options.data),
            train,
            options.out / "checkpoints",
            device=options.device,
            observer=console,
        )
        console.resume(trainer.step)
        trainer.run()
    finally:
        console.close()
    trainer.export(options.out / "generator")
    print(f"The generator is in {options.out / 'generator'}, its pictures in {options.out / 'grids'}.")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except GantryError as error:
        sys.exit(f"error: {error}")
