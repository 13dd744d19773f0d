"""Training runs with the settings of ``auto``: the FID over time, the FID at the end, pictures. Each call goes on with the run.

``train`` takes families that make pictures from noise, on CIFAR-10; ``translate`` those that translate pictures, on drawn
faces at 128x128: from outlines to drawings, from day to night, and with and without glasses, hat and smile.
"""

import json
import math
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core.config import build
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, families_that_can, family_config
from gan_core.families.noise import NoiseFamily
from gan_core.families.translation import TranslationFamily
from gan_core.files import read_json, write_json, write_text
from gan_core.images.grid import save_sheet
from gan_core.metrics.assess import assess
from gan_core.metrics.inception import load_inception
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from gan_core.presets.choose import choose
from gan_core.presets.recipes import RECIPES
from gan_core.training.config import TrainConfig
from gan_core.training.observer import Observer
from gan_core.training.trainer import Trainer
from tests.gpu import drawn
from tests.gpu.pack import Pack, write_splits
from tests.gpu.report import Row, State, figure
from tests.gpu.tiny import SIDE, TINY
from tests.gpu.worker import Item, Options

KIMG = {"dcgan": 20_000.0, "cgan": 20_000.0, "biggan": 20_000.0, "stylegan2": 10_000.0, "r3gan": 20_000.0}
"""Length of a run in thousand images. Those that translate have that of their recipe."""
WANTED = {
    "dcgan": (25.0, 24 * 60.0, "below 25 in less than a day"),
    "biggan": (12.0, math.inf, "below 12, then 7.1"),
    "stylegan2": (6.0, 60.0, "below 6 in an hour, towards 2.4"),
    "r3gan": (6.0, 60.0, "below 6 in an hour, towards 2.0"),
}
"""FID-50k to reach on CIFAR-10, in how many minutes, and both in words."""
PUBLISHED = {
    "biggan": "7.1 (with DiffAugment)",
    "stylegan2": "2.42 (StyleGAN2-ADA, conditional)",
    "r3gan": "2.0 (R3GAN)",
}
FID_SAMPLES, FINAL_SAMPLES = 10_000, 50_000
MEASUREMENTS = 40
"""FIDs over the run."""
PAIRS = {"train": 2000, "test": 500}
TRANSLATION_SIDE = 128
SMALL_STEPS = 4
CURVE = "curve.jsonl"
SAVE_SECONDS = {"cuda": 25.0, "cpu": 5.0}
"""Seconds kept for the last checkpoint and the pictures of a call; a FID that has begun may take some of them."""
FINAL_SECONDS = 90.0
"""Seconds that the FID at the end may take. With less time left, it is for the next call."""


class Notebook(Observer):
    """Keeps the FIDs with the time and the images that they cost, and pictures; asks for a checkpoint at the call's end."""

    def __init__(self, folder: Path, spent: Path) -> None:
        """``spent``: file of the seconds of all calls, up to the newest checkpoint; later steps are done again."""
        self._folder, self._spent, self._began = folder, spent, time.perf_counter()
        self._before = float(read_json(spent)) if spent.is_file() else 0.0
        self.trainer: Trainer | None = None
        self.closing = False
        """Whether the next step is to be saved."""

    @property
    def seconds(self) -> float:
        """Seconds of this call, with all that belongs to a run: compiling, checkpoints, pictures and FIDs."""
        return time.perf_counter() - self._began

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Keep the seconds, which are lost otherwise if the call is ended before its end."""
        write_json(self._spent, self._before + self.seconds)

    def figure(self, found: Figure, step: int) -> None:
        """Append a point of the curve."""
        assert self.trainer is not None
        point = {
            "step": step,
            "kimg": self.trainer.images_seen / 1000,
            "minutes": round((self._before + self.seconds) / 60, 2),
            "fid": found.value,
            "samples": found.protocol.fake_count,
            "protocol": found.protocol.stamp,
        }
        with open(self._folder / CURVE, "a", encoding="utf-8") as file:
            file.write(json.dumps(point) + "\n")

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Write the grid of this step."""
        save_sheet(self._folder / f"step-{step:08d}.png", pictures[: 8 * columns], columns=columns)

    def wants_checkpoint(self, step: int) -> bool:
        """Whether this is the last step of the call."""
        return self.closing


def items(options: Options) -> list[Item]:
    """The run of one family.

    Raises:
        SettingsError: the family is of the other kind, or there is none of this name.
    """
    capability = NoiseFamily if options.part == "train" else TranslationFamily
    able = families_that_can(capability)
    if options.family not in able:
        raise SettingsError(
            f"python -m tests.gpu {options.part}: takes one of {', '.join(able)}, got {options.family}."
        )
    seconds = 5.0 if options.small else 120.0
    return [Item(name=options.family, rows=partial(_run, options.family, options), seconds=seconds, goes_on=True)]


def place_of_run(options: Options, device: torch.device) -> Path:
    """Folder of a run's data, settings and checkpoints, with the name of the card, whose minutes the curve shows.

    The small form has its own: a whole run must not go on with it.
    """
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    form = "-small" if options.small else ""
    return options.work / re.sub(r"[^\w-]+", "-", f"{options.folder.name}-{card}{form}")


def _run(name: str, options: Options) -> Iterator[Row]:
    device, pack = choose_device(), Pack(options.pack, options.work)
    work = place_of_run(options, device)
    data = _data(name, options, pack, work)
    if isinstance(data, str):
        yield Row(name="", state="missing data", note=data)
        return
    measures = not options.small
    if measures:
        if lack := pack.lacks("weights"):
            yield Row(name="", state="missing data", note=lack)
            return
        pack.use_weights()
    model, config = _settings(name, data, device, options, work)
    spent = work / "seconds.json"
    notebook = Notebook(options.folder, spent)
    notebook.trainer = trainer = Trainer(
        name, model, data, config, work / "checkpoints", device=device, observer=notebook
    )
    _forget_after(options.folder / CURVE, trainer.step)
    began = trainer.images_seen
    if trainer.step < config.steps:
        _train(trainer, notebook, options.deadline - SAVE_SECONDS[device.type])
        seconds = notebook.seconds
    trainer.generator.update_statistics()  # those that it has are of its last grid or FID, for other weights
    pictures, columns = trainer.generator.preview()
    save_sheet(options.folder / "latest.png", pictures, columns=columns)
    minutes = (read_json(spent) if spent.is_file() else 0.0) / 60
    seen = trainer.images_seen
    said = f"{trainer.step} of {config.steps} steps, {minutes:.1f} minutes of training in all"
    yield figure("thousand images seen", seen / 1000, note=said)
    if seen > began:
        note = "with the compiler, checkpoints, pictures and FIDs"
        yield figure("images/s in this call", (seen - began) / seconds, note=note)
    yield from _curve(options.folder / CURVE)
    if trainer.step < config.steps:
        yield Row(name="FID at the end", state="no time", note="call it again to go on")
    elif not measures:
        yield Row(name="FID at the end", state="left out", note="the small form measures no FID")
    else:
        yield _at_the_end(name, trainer, data, options, work, minutes)


def _train(trainer: Trainer, notebook: Notebook, until: float) -> None:
    """Train until the end of the run, or until the time ``until``; then with a checkpoint."""
    step_seconds = 0.0
    while trainer.step < trainer.config.steps and not notebook.closing:
        left = until - time.time()
        # Slices of about five seconds, so that the end is met; the last step asks for a checkpoint.
        notebook.closing = left <= max(2 * step_seconds, 1.0)
        count = 1 if notebook.closing or not step_seconds else max(1, int(min(5.0, left / 2) / step_seconds))
        before = time.perf_counter()
        trainer.run(until=trainer.step + count)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        step_seconds = (time.perf_counter() - before) / count


def _settings(
    name: str, data: PreparedDataset, device: torch.device, options: Options, work: Path
) -> tuple[Any, TrainConfig]:
    """The settings of ``auto``, chosen in the first call and kept for the later ones.

    Raises:
        SettingsError: the run was begun with another length than the one that is asked for.
    """
    kept = work / "settings.json"
    if not kept.is_file():
        kimg = options.kimg or KIMG.get(name, float(RECIPES[name].kimg))
        given = {f"model.{key}": value for key, value in TINY[name].items()} if options.small else {}
        given["train.compile"] = (
            device.type == "cuda"
        )  # a compiled step needs other memory, by which the micro-batches are chosen
        count = 1000
        for _ in range(2):  # schedules depend on the number of steps, and that on the batch
            choices = choose(name, data.info, device, count, given=given)
            chosen = {choice.name: choice.value for choice in choices} | given
            count = math.ceil(kimg * 1000 / (chosen["train.batch"] * chosen.get("train.discriminator_steps", 1)))
        if options.small:
            count = SMALL_STEPS
        every = max(1, count // MEASUREMENTS)
        measured = {} if options.small else {"fid_every": every, "fid_samples": FID_SAMPLES}
        train = {key.removeprefix("train."): value for key, value in chosen.items() if key.startswith("train.")}
        if options.small:
            train |= {"batch": 4, "accumulate": 1}
        family = {key.removeprefix("model."): value for key, value in chosen.items() if key.startswith("model.")}
        train |= {
            **measured,
            "steps": count,
            "log_every": 1 if options.small else min(100, every),
            "sample_every": count if options.small else max(1, count // 10),
            "checkpoint_every": every,
            "keep_checkpoints": 1,
        }
        write_json(kept, {"model": family, "train": train, "kimg": kimg})
        write_json(options.folder / "settings.json", {"model": family, "train": train})
    settings = read_json(kept)
    if options.kimg not in (None, settings["kimg"]):
        raise SettingsError(
            f"--kimg {options.kimg:g}: the run in {work} was begun with {settings['kimg']:g}. Leave --kimg out to go on with "
            "it, or remove that folder to begin again."
        )
    return family_config(name, settings["model"]), build(TrainConfig, settings["train"])


def _data(name: str, options: Options, pack: Pack, work: Path) -> PreparedDataset | str:
    """The data of a family, or in words what is missing."""
    if FAMILIES[name].can(NoiseFamily):
        which = "drawn" if options.small else "cifar10"
        return pack.lacks(which) or pack.dataset(which)
    place = work / "data"
    if not (place / "dataset.json").is_file():
        _draw(name, place, small=options.small)
    return PreparedDataset(place, work / "decoded")


def _draw(name: str, place: Path, *, small: bool) -> None:
    """Draw the pictures of a family that translates: no face is in two splits, or in both domains."""
    counts = {"train": 16, "test": 8} if small else PAIRS
    side = SIDE if small else TRANSLATION_SIDE
    first, splits = 0, {}
    kinds = FAMILIES[name].kinds
    for split, count in counts.items():
        half = count // 2
        if "paired" in kinds:
            splits[split] = {
                "pixels": drawn.faces(first, count, side),
                "conditions": drawn.faces(first, count, side, "outline"),
            }
        elif "unpaired" in kinds:
            night = drawn.faces(first + half, count - half, side, "night")
            pixels = torch.cat([torch.from_numpy(part) for part in (drawn.faces(first, half, side), night)]).numpy()
            labels = (torch.arange(count) >= half).long().numpy()
            splits[split] = {"pixels": pixels, "labels": labels, "kind": "unpaired"}
        else:
            labels = drawn.attributes(first, count) if name == "stargan" else drawn.hair_colours(first, count)
            splits[split] = {"pixels": drawn.faces(first, count, side), "labels": labels, "kind": "domains"}
        first += count
    write_splits(place, splits, f"drawn for {name}")


def _forget_after(path: Path, step: int) -> None:
    """Remove the points of a run that was ended before it had saved them."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= step))


def _points(path: Path) -> list[dict[str, Any]]:
    """The FIDs over the run."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _curve(path: Path) -> Iterator[Row]:
    points = _points(path)
    if not points:
        return
    for name, point in (("last FID during the run", points[-1]), ("lowest FID", min(points, key=lambda p: p["fid"]))):
        said = f"after {point['kimg']:.0f} kimg and {point['minutes']:.1f} minutes; {point['protocol']}"
        yield figure(f"{name} ({point['samples']} pictures)", point["fid"], note=said)


def judge(name: str, value: float, minutes: float, points: list[dict[str, Any]]) -> tuple[State, str]:
    """Whether a run met what is :data:`WANTED` of the family ``name``, and when it was first that good, in words.

    Args:
        name: of the family.
        value: the FID at the end.
        minutes: minutes of the whole run.
        points: the FIDs over the run, of fewer pictures and so rather too high.
    """
    if name not in WANTED:
        return "figure", ""
    limit, within, _ = WANTED[name]
    if not value < limit:
        return "miss", ""
    first = min([point["minutes"] for point in points if point["fid"] < limit] + [minutes])
    return "ok" if first <= within else "miss", f"; first below {limit:g} after {first:.0f} minutes"


def _at_the_end(
    name: str, trainer: Trainer, data: PreparedDataset, options: Options, work: Path, minutes: float
) -> Row:
    """The FID of the last generator, measured once."""
    kept, said = work / "final.json", "FID at the end"
    if not kept.is_file():
        if options.left() < FINAL_SECONDS:
            return Row(name=said, state="no time", note="call it again to measure it")
        split = "test" if trainer.generator.translates else "train"
        found = assess(
            trainer.generator,
            data,
            split=split,
            count=FINAL_SAMPLES,
            seed=0,
            extractor=load_inception(trainer.device),
            generator_digest=f"step {trainer.step}",
            full=False,
        ).objective
        write_json(kept, found.as_dict())
        trainer.export(work / "generator")
    found_values = read_json(kept)
    value, published = (
        found_values["value"],
        PUBLISHED.get(name, "none for these pictures" if trainer.generator.translates else ""),
    )
    state, when = judge(name, value, minutes, _points(options.folder / CURVE))
    return Row(
        name=said,
        state=state,
        value=value,
        target=WANTED[name][2] if name in WANTED else "",
        published=published,
        note=found_values["stamp"] + when,
    )
