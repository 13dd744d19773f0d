"""Train a family on a prepared dataset on one device: ``python -m gan_core.train --data DIR --family dcgan --out DIR``.

Needs only PyTorch, the readers of the data, PyYAML and tqdm. Started again with the same arguments, for example after a crash,
it resumes training.
"""

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from gan_core.checkpoint import list_checkpoints
from gan_core.config import as_dict, build, check, field_docs
from gan_core.data import PreparedDataset
from gan_core.disk import describe_os_error
from gan_core.errors import GantryError, SettingsError
from gan_core.families import FAMILIES, family_config
from gan_core.files import explain_os_errors, read_json, write_json, write_text
from gan_core.images.grid import save_sheet
from gan_core.locks import folder_lock
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from gan_core.presets.choose import Choice, LengthChoices, choose
from gan_core.training.config import TrainConfig, check_one_length
from gan_core.training.length import LENGTH, decide_length
from gan_core.training.observer import Observer
from gan_core.training.start import Start, open_start
from gan_core.training.trainer import Trainer
from gan_core.training.world import World

PARENT = "parent.json"
"""File in the output folder that records which run this one started from."""


class Console(Observer):
    """Show a progress bar and each FID, and write ``metrics.jsonl`` and a picture grid every ``sample_every`` steps."""

    def __init__(self, out: Path, steps: int) -> None:
        self._out = out
        # Without a terminal, a line per second would fill the log.
        seldom = 1 if sys.stderr.isatty() else 30
        self._bar = tqdm(total=steps, unit="step", desc="train", dynamic_ncols=True, mininterval=seldom)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Append a line to ``metrics.jsonl``, and update the bar."""
        path = self._out / "metrics.jsonl"
        with explain_os_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(
            f"{values['rate/images_per_second']:.0f} images/s, D {values['loss/discriminator']:.2f}, "
            f"G {values['loss/generator']:.2f}, diversity {values['health/diversity']:.2f}"
        )

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Write the picture grid of this step."""
        save_sheet(self._out / "grids" / f"step-{step:08d}.png", pictures, columns=columns)

    def figure(self, figure: Figure, step: int) -> None:
        """Print the FID with its protocol."""
        self._bar.write(f"step {step}: FID {figure.value:.2f} ({figure.protocol.stamp})", file=sys.stderr)

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Update the bar."""
        self._bar.update(step - self._bar.n)

    def resume(self, step: int) -> None:
        """Start at ``step``: remove later rows from ``metrics.jsonl``, which a killed run logged after its last checkpoint."""
        # Not update: the steps of earlier calls would count as done in no time, in the rate and in the time that is left.
        self._bar.initial = self._bar.n = self._bar.last_print_n = step
        self._bar.refresh()
        file = self._out / "metrics.jsonl"
        if file.is_file():
            # A last line without its end is incomplete, because the run was killed.
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            write_text(file, "".join(line for line in whole if json.loads(line)["step"] <= step))

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()


def _family_settings(name: str) -> str:
    """The settings of a family for the end of the help, one per line."""
    if name not in FAMILIES:
        return ""
    docs, defaults = field_docs(FAMILIES[name].Config), as_dict(FAMILIES[name].Config())
    rows = [
        f"  {key}: {docs.get(key, 'see the family')} (default {json.dumps(value)})" for key, value in defaults.items()
    ]
    return "\n".join([f"settings of {name} for --model (for another family: --family NAME --help):", *rows])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Every setting of a training run is an option with the same name."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--family", default="dcgan")
    parser = argparse.ArgumentParser(
        prog="python -m gan_core.train",
        description="Train a GAN on a prepared dataset on one device. Run the same command again to resume training.",
        epilog=_family_settings(first.parse_known_args(arguments)[0].family).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of a prepared dataset (with dataset.json)")
    parser.add_argument("--family", default="dcgan", help=f"GAN family: {', '.join(FAMILIES)} (default dcgan)")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="output folder for checkpoints, picture grids, metrics, the generator, and the start of later runs",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=VALUE", help="a setting of the family, such as width=64"
    )
    parser.add_argument(
        "--preset",
        choices=("none", "auto"),
        default="none",
        help="auto: choose other settings from the data and the device, and print each with a reason (default none)",
    )
    docs = field_docs(TrainConfig)
    settings = parser.add_argument_group("settings of the run, as YAML")
    for name, default in as_dict(TrainConfig()).items():
        meaning = f"{docs[name]} (default {json.dumps(default)})".replace("%", "%%")
        settings.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar="VALUE", help=meaning)
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace, choices: Iterable[Choice] = ()) -> tuple[Any, TrainConfig]:
    """Return the typed configurations of the family and of the run; raises SettingsError.

    ``choices`` apply to settings that are not given.
    """
    values = {**{choice.name: choice.value for choice in choices}, **given(options)}
    model, train = (
        {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        for prefix in ("model.", "train.")
    )
    return family_config(options.family, model), build(TrainConfig, train, where="train")


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given on the command line, by dotted name as in params.yaml; raises SettingsError."""
    texts = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    values = {
        f"train.{name}": _value(text, f"--{name.replace('_', '-')}") for name, text in texts.items() if text is not None
    }
    if not isinstance(values.get("train.start_from"), str | None):  # a folder such as 3 or 2026-01-31
        values["train.start_from"] = options.start_from
    for pair in options.model:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsError(f"--model {pair}: expected NAME=VALUE, such as width=64.")
        values[f"model.{name}"] = _value(text, f"--model {name}")
    check_one_length({name: values.get(f"train.{name}") for name in ("steps", "minutes")})
    return values


def _value(text: str, option: str) -> Any:
    # To YAML it is null, so that the default would be used if a shell's variable has no value.
    check(bool(text.strip()), f"{option}: is empty. Give a value, or leave it out.")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"{option}: '{text}' is not a YAML value. Give a number, a word or {{name: value}}."
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """Train, and export the averaged generator to ``OUT/generator``."""
    options = parse(arguments)
    settings(options)  # check the settings before the output folder is created
    if options.out.exists() and not options.out.is_dir():
        raise SettingsError(f"--out: {options.out} is a file. Give a new folder, or that of an earlier run.")
    with folder_lock(options.out) as ours:
        if not ours:
            raise SettingsError(
                f"--out: another process is training into {options.out}. Wait until it ends, or give another folder."
            )
        _train(options)


def _start(out: Path, train: TrainConfig) -> Start | None:
    """The run to start from, recorded in ``out`` at the first call, so that a resumed run keeps it; raises CheckpointError."""
    if train.start_from is None:
        return None
    path, begun = out / PARENT, bool(list_checkpoints(out))
    known = build(Start, read_json(path), where=str(path)) if path.is_file() and begun else None
    if known and known.name != train.start_from:
        raise SettingsError(
            f"--start-from: the run in {out} started from {known.name}, got {train.start_from}. Give that, or another --out."
        )
    if known:  # what is in the folder may have changed since, and is not needed any more
        return known
    start = open_start(train.start_from)
    if not begun:  # a run that began with random weights is refused by its checkpoint, and did not start from this one
        write_json(path, start.record)
    return start


def _resolve(
    options: argparse.Namespace, dataset: PreparedDataset, device: torch.device, directory: Path
) -> tuple[Any, TrainConfig]:
    """The configurations of the family and of the run, with the choices of the preset and a number of steps; prints choices."""
    family, train = settings(options)
    wanted, chosen = given(options), []
    if options.preset == "auto":
        chosen = choose(options.family, dataset.info, device, train.known_steps, given=wanted)
        family, train = settings(options, _told(chosen, wanted))
    if train.minutes is None:
        return family, train

    def build_trainer(config: TrainConfig, place: Path) -> Trainer:
        return Trainer(options.family, family, dataset, config, place, device=device)

    if not list_checkpoints(directory):  # what was measured may have been another run, whose checkpoints were removed
        (options.out / LENGTH).unlink(missing_ok=True)
    length = decide_length(build_trainer, train, options.out, directory, world=World.current())
    if options.preset == "auto":
        later = LengthChoices(family=options.family, batch=train.batch, discriminator_steps=train.discriminator_steps)
        family, train = settings(options, [*chosen, *_told(later.at(length.steps), wanted)])
    return family, dataclasses.replace(train, steps=length.steps, minutes=None)


def _told(choices: list[Choice], wanted: Mapping[str, Any]) -> list[Choice]:
    """Print the choices of settings that are not given, and return them all."""
    for choice in choices:
        if choice.name not in wanted:
            print(f"auto: {choice.name} = {choice.value} ({choice.reason})")
    return choices


def _train(options: argparse.Namespace) -> None:
    device, dataset = choose_device(options.device), PreparedDataset(options.data)
    directory = options.out / "checkpoints"
    start = _start(options.out, settings(options)[1])  # before the steps are measured, which takes a while
    family, train = _resolve(options, dataset, device, directory)
    trainer = Trainer(options.family, family, dataset, train, directory, device=device, start=start)
    if trainer.step >= train.steps:
        instead = " in place of --minutes" if options.minutes is not None else ""
        print(
            f"{options.out} is already at step {trainer.step}. Give a --steps larger than {trainer.step}{instead} to train "
            "further."
        )
    trainer.observer = console = Console(options.out, train.steps)
    try:
        console.resume(trainer.step)
        trainer.run()
    finally:
        console.close()
    trainer.export_start(options.out / "start")
    trainer.export(options.out / "generator")
    print(f"The generator is in {options.out / 'generator'}, picture grids are in {options.out / 'grids'}.")
    print(f"Another run can start from this one: --start-from {options.out}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except GantryError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {describe_os_error(error)}")
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to resume from the last checkpoint.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
