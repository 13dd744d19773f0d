"""The evaluate stage: prepared data and a generator in; its figures with their protocols and a contact sheet out."""

import itertools
import re
from pathlib import Path
from typing import Any

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.files import write_json
from gan_core.generator import Generator, load_generator
from gan_core.grid import save_sheet
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.features import check_count
from gan_core.metrics.inception import load_inception
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from gan_core.training.feed import fixed_look
from pipelines.progress import compact, say
from pipelines.settings import EvaluateSettings, Settings
from pipelines.stages.context import StageContext
from pipelines.tracking.stage import stage_run

OUT, PREPARED = "outputs/evaluate", "data/prepared"
METRICS, SHEET = "metrics.json", "samples.png"
SHEET_PICTURES = 100
_LONGEST = 200
"""Characters of a figure's name; MLflow takes 250, and something may be appended."""
SAID = 12
"""Figures that are told beside the objective: directions among many domains have dozens."""


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Measure the generator of the train stage; a published figure is always measured in fp32."""
    metrics, sheet = context.work / METRICS, context.work / SHEET
    chosen = settings.evaluate
    generator = load_generator(context.root / "outputs/train/generator", choose_device())
    dataset = PreparedDataset(context.root / PREPARED, cache_dir=user_cache_dir() / "decoded")
    with stage_run(context, settings) as run:
        run.params({"evaluate": settings.as_dict()["evaluate"]})
        draw_sheet(sheet, generator, dataset, chosen.seed)
        run.artifact(sheet)
        measured = measure(generator, dataset, chosen)
        if generator.translates and measured.objective.protocol.split == "train":
            held_out = dataset.info.splits.get("test")
            remedy = "evaluate.split: test holds others" if held_out else "ingest.test_share holds others out"
            say("evaluate", f"measured on pictures that the generator has learnt from; {remedy}")
        objective = measured.objective
        run.metrics(tracked(measured), generator.info["step"])
        run.tags({"gantry.protocol": objective.protocol.stamp, "gantry.generator": generator.digest})
        write_json(metrics, results(measured))
        run.artifact(metrics)
    say("evaluate", f"{described(objective)} ({objective.protocol.stamp})")
    others = [figure for figure in measured.figures if figure != objective]
    for figure in others[:SAID]:
        say("evaluate", described(figure))
    if others[SAID:]:
        say("evaluate", f"and {len(others) - SAID} figures more in {OUT}/{METRICS}")
    return {f"{OUT}/{METRICS}": metrics, f"{OUT}/{SHEET}": sheet}


def measure(generator: Generator, dataset: PreparedDataset, chosen: EvaluateSettings) -> Assessment:
    """Measure a generator by the settings of params.yaml.

    Raises:
        SettingsError: more real pictures are asked for than there are.
        DataError: see :func:`gan_core.metrics.assess.assess`.
    """
    splits = {name: count for name, count in dataset.info.splits.items() if count}
    split = chosen.split_for(splits, translates=generator.translates)
    if chosen.real and not generator.translates and split in splits:
        check_count("evaluate.real", chosen.real, split, splits[split])
    return assess(
        generator,
        dataset,
        split=split,
        count=chosen.samples,
        real_count=chosen.real or splits.get(split),
        seed=chosen.seed,
        extractor=load_inception(device=choose_device(), precision="fp32", features=chosen.features),
        generator_digest=generator.digest,
        batch_size=chosen.batch,
        progress=True,
    )


def draw_sheet(path: Path, generator: Generator, dataset: PreparedDataset, seed: int) -> None:
    """Pictures drawn from noise; of a generator that translates, always the same pictures beside what it makes of them."""
    if not generator.translates:
        save_sheet(path, generator.sample(SHEET_PICTURES, seed))
        return
    split = "test" if dataset.info.splits.get("test") else "train"
    pictures, columns = generator.display(fixed_look(dataset, split, choose_device()))
    save_sheet(path, pictures, columns=columns)


def results(measured: Assessment) -> dict[str, Any]:
    """What the file of figures holds: the objective, all figures, and their values alone by the names they are tracked by.

    The values are there for ``dvc metrics``, which shows tables of numbers and passes over lists.
    """
    figures = [figure.as_dict() for figure in measured.figures]
    return {"fid": measured.objective.as_dict(), "figures": figures, "values": tracked(measured)}


def tracked(measured: Assessment) -> dict[str, float]:
    """Every figure under a name that a tracker takes, and beside it what the trivial answer is worth.

    The objective is ``fid``, whatever it is the mean of. Where two domains differ in what no tracker takes alone, the
    names of later figures end in a number.
    """
    values = {"fid": measured.objective.value}
    for figure in measured.figures:
        if figure == measured.objective:
            name = figure.name
        else:
            plain = trackable(title(figure).replace(" -> ", " to ").replace(" ", "_"))
            longer = (f"{plain}-{number}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([plain], longer) if not {name, f"{name}.trivial"} & {*values})
        values[name] = figure.value
        if figure.baseline is not None:
            values[f"{name}.trivial"] = figure.baseline
    return values


def trackable(name: str) -> str:
    """``name`` as MLflow takes it: letters, digits, ``_ - . : /`` and spaces, and no part of a path that leads elsewhere."""
    parts = re.sub(r"[^\w\-./ :]", "-", name[:_LONGEST]).split("/")
    return "/".join("-" if part in ("", ".", "..") else part for part in parts)


def title(figure: Figure) -> str:
    """A figure's name, and of which direction it is."""
    return f"{figure.name} {figure.protocol.direction}".strip()


def described(figure: Figure) -> str:
    """A figure in a line: value, interval, and what the trivial answer is worth."""
    line = f"{title(figure)}: {compact(figure.value)}"
    if figure.low is not None and figure.high is not None:
        line += f" [{compact(figure.low)}, {compact(figure.high)}]"
    if figure.baseline is not None:
        better = (figure.value > figure.baseline) == figure.higher_is_better and figure.value != figure.baseline
        line += f"; the source itself {compact(figure.baseline)}{'' if better else ', which is no worse'}"
    return line
