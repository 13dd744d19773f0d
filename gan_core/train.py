"""Train a family on a prepared dataset on one device: ``python -m gan_core.train --data DIR --family dcgan --out DIR``.

Needs nothing but PyTorch and the data. Killed and started again with the same arguments, it goes on where it was.
"""

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from tqdm import tqdm

from gan_core.config import as_dict, build, field_docs
from gan_core.data import PreparedDataset
from gan_core.disk import what_failed
from gan_core.errors import GantryError, SettingsError
from gan_core.families import FAMILIES, family_config
from gan_core.files import write_text
from gan_core.images.grid import save_sheet
from gan_core.locks import folder_lock
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from gan_core.presets.choose import Choice, choose
from gan_core.training.config import TrainConfig
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer


class Console(Observer):
    """An observer with a progress bar, a ``metrics.jsonl``, a picture grid per ``sample_every`` steps, and a line a FID."""

    def __init__(self, out: Path, steps: int) -> None:
        self._out = out
        # Where nobody looks, a line a second would fill the log.
        seldom = 1 if sys.stderr.isatty() else 30
        self._bar = tqdm(total=steps, unit="step", desc="train", dynamic_ncols=True, mininterval=seldom)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Append to the file, move the bar."""
        with open(self._out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(
            f"{values['rate/images_per_second']:.0f} images/s, D {values['loss/discriminator']:.2f}, "
            f"G {values['loss/generator']:.2f}, diversity {values['health/diversity']:.2f}"
        )

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Write the grid of this step."""
        save_sheet(self._out / "grids" / f"step-{step:08d}.png", pictures, columns=columns)

    def figure(self, figure: Figure, step: int) -> None:
        """A line with the figure's protocol."""
        self._bar.write(f"step {step}: FID {figure.value:.2f} ({figure.protocol.stamp})", file=sys.stderr)

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


def _family_settings(name: str) -> str:
    """What ``--model`` may set, a line a setting, for the end of the help."""
    if name not in FAMILIES:
        return ""
    told, defaults = field_docs(FAMILIES[name].Config), as_dict(FAMILIES[name].Config())
    rows = [
        f"  {key}: {told.get(key, 'see the family')} (default {json.dumps(value)})" for key, value in defaults.items()
    ]
    return "\n".join([f"settings of {name} for --model (of another family: --family NAME --help):", *rows])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every setting of a training run is an option of its own name."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--family", default="dcgan")
    parser = argparse.ArgumentParser(
        prog="python -m gan_core.train",
        description="Train a family on a prepared dataset on one device; started again, it goes on where it was.",
        epilog=_family_settings(first.parse_known_args(arguments)[0].family).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of a prepared dataset (has dataset.json)")
    parser.add_argument("--family", default="dcgan", help=f"one of: {', '.join(FAMILIES)}")
    parser.add_argument("--out", required=True, type=Path, help="checkpoints, grids, metrics and the generator go here")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=VALUE", help="a setting of the family, such as width=64"
    )
    parser.add_argument(
        "--preset",
        choices=("none", "auto"),
        default="none",
        help="auto: what is not given is chosen from the data and the device, and told with its reason",
    )
    told = field_docs(TrainConfig)
    settings = parser.add_argument_group("settings of the run, as YAML")
    for name, default in as_dict(TrainConfig()).items():
        meaning = f"{told[name]} (default {json.dumps(default)})".replace("%", "%%")
        settings.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=meaning)
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace, choices: Iterable[Choice] = ()) -> tuple[Any, TrainConfig]:
    """The typed configurations of the family and of the run; raises SettingsError.

    Where an option is not given, the one among ``choices`` holds.
    """
    values = given(options)
    for choice in choices:
        if choice.name not in values:
            values[choice.name] = choice.value
            print(f"auto: {choice.name} = {choice.value} ({choice.reason})")
    model, train = (
        {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        for prefix in ("model.", "train.")
    )
    return family_config(options.family, model), build(TrainConfig, train, where="train")


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were written out, by dotted name as in params.yaml; raises SettingsError."""
    texts = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    values = {
        f"train.{name}": _value(text, f"--{name.replace('_', '-')}") for name, text in texts.items() if text is not None
    }
    for pair in options.model:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsError(f"--model {pair}: write NAME=VALUE.")
        values[f"model.{name}"] = _value(text, f"--model {name}")
    return values


def _value(text: str, option: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"{option}: '{text}' is not a YAML value. Write a number, a word or {{name: value}}."
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """Train, export the averaged generator to ``OUT/generator``."""
    options = parse(arguments)
    settings(options)  # what is wrong with them is said before anything is made
    if options.out.exists() and not options.out.is_dir():
        raise SettingsError(f"--out: {options.out} is a file. Name a folder, new or of an earlier run.")
    with folder_lock(options.out) as ours:
        if not ours:
            raise SettingsError(
                f"--out: another process trains into {options.out} now. Wait until it ends, or name another folder."
            )
        _train(options)


def _train(options: argparse.Namespace) -> None:
    family, train = settings(options)
    device, dataset = choose_device(options.device), PreparedDataset(options.data)
    if options.preset == "auto":
        chosen = choose(options.family, dataset.info, device, train.steps, given=given(options))
        family, train = settings(options, chosen)
    trainer = Trainer(options.family, family, dataset, train, options.out / "checkpoints", device=device)
    if trainer.step >= train.steps:
        print(
            f"{options.out} is at step {trainer.step} already: with --steps {train.steps} there is nothing left to do."
        )
    trainer.observer = console = Console(options.out, train.steps)
    try:
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
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {what_failed(error)}")
    except KeyboardInterrupt:
        print("Stopped. Started again with the same arguments, it goes on from its last checkpoint.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
