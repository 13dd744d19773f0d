"""Measuring a generator by the settings of params.yaml, and its figures in words and by name."""

import itertools
import re
from typing import Any

from gan_core.data import PreparedDataset
from gan_core.inference.generator import Generator
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.features import check_count
from gan_core.metrics.inception import load_inception
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from pipelines.runtime.progress import compact
from pipelines.settings.schema import EvaluateSettings

_LONGEST = 200
"""Characters of a figure's name; MLflow takes 250, and something may be appended."""


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
