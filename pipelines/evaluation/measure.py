"""Measure a generator with the settings of params.yaml; name and describe its figures."""

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gan_core.data import PreparedDataset
from gan_core.inference.generator import Generator
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.copying import Copying
from gan_core.metrics.features import check_real_count
from gan_core.metrics.inception import load_inception
from gan_core.metrics.objective import FID, find_objective
from gan_core.metrics.protocol import Figure, baseline_name
from gan_core.precision import choose_device
from pipelines.runtime.progress import format_figure
from pipelines.settings.schema import EvaluateSettings

SHARES = (
    *("precision", "recall", "density", "coverage", "memorisation"),
    *("class_agreement", "class_training", "accuracy", "ssim"),
)
"""Figures of about 0 to 1, which can share an axis."""
_MAX_NAME_LENGTH = 200
"""In characters. MLflow's limit is 250, and a suffix may be appended."""


def measure(generator: Generator, dataset: PreparedDataset, chosen: EvaluateSettings) -> Assessment:
    """Measure a generator with the settings of params.yaml. The objective is that of ``evaluate.objective``.

    Raises:
        SettingsError: ``evaluate.real`` is larger than the split, or the objective is not measured for this generator.
        DataError: see :func:`gan_core.metrics.assess.assess`.
    """
    splits = {name: count for name, count in dataset.info.splits.items() if count}
    split = chosen.split_for(splits, translates=generator.translates)
    if chosen.real and not generator.translates and split in splits:
        check_real_count("evaluate.real", chosen.real, split, splits[split])
    found = assess(
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
        path_samples=chosen.path_samples,
    )
    return replace(found, objective=find_objective(found.figures, chosen.objective, found.findings.omitted))


def metrics_json(measured: Assessment) -> dict[str, Any]:
    """Content of metrics.json.

    ``fid``: the FID, or its mean over directions; ``objective``: the objective if it is another figure; ``figures``: all
    figures; ``not_measured``: the reason for each figure that is missing; ``copying``: the distances that ``memorisation`` is
    computed from; ``values``: the values by metric name, for ``dvc metrics``, which shows numbers by name and skips lists.
    """
    copying = measured.findings.copying
    figures = [figure.as_dict() for figure in measured.figures]
    return {
        "fid": figures[0],
        **({} if measured.objective.name == FID else {"objective": measured.objective.as_dict()}),
        "figures": figures,
        "not_measured": dict(measured.findings.omitted),
        **({"copying": _copying_json(copying)} if copying else {}),
        "values": metric_values(measured),
    }


def shares_csv(measured: Assessment) -> str:
    """The figures of :data:`SHARES` as a table for ``dvc plots``, which cannot draw the figures of metrics.json."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("figure", "share"))
    rows = [(figure_title(figure), figure.value) for figure in measured.figures if figure.name in SHARES]
    writer.writerows(rows or [("none is measured", 0)])  # DVC fails on a table without rows
    return table.getvalue()


def describe_copying(copying: Copying, real: str = "", fake: str = "") -> str:
    """In one line, whether the generator copies training pictures.

    Args:
        copying: the result.
        real: name of the real pictures, if they are not the training pictures of a generator.
        fake: name of the measured pictures, if no generator made them.
    """
    low = copying.estimate.interval[0]
    copies = low is not None and low > copying.expected
    measured = f"pictures of {fake}" if fake else "generated pictures"
    one, many = (f"picture of {real}", f"pictures of {real}") if real else ("training picture", "training pictures")
    reference = copying.reference.replace("training pictures", many)
    searched = f"{copying.training_count} of {copying.training_total} {many} were searched."
    return (
        f"memorisation: {copying.estimate.value:.1%} of the {measured} are as near to a {one} as the nearest "
        f"{copying.expected:.0%} of the {reference}. {searched} {'COPIES FOUND, ' if copies else ''}p = {copying.p_value:.2g}"
    )


def _copying_json(copying: Copying) -> dict[str, Any]:
    """All but the estimate, which is among the figures."""
    return {key: value for key, value in dataclasses.asdict(copying).items() if key not in ("estimate", "expected")}


def metric_values(measured: Assessment) -> dict[str, float]:
    """The values of all figures by metric name, with their baselines as ``NAME.trivial``."""
    values = {}
    for name, figure in named_figures(measured.figures).items():
        values[name] = figure.value
        if figure.baseline is not None:
            values[f"{name}.trivial"] = figure.baseline
    return values


def named_figures(figures: Sequence[Figure]) -> dict[str, Figure]:
    """Figures by metric name. The first is named by its metric alone, even if it is a mean over directions.

    Those of a direction or a class are named ``METRIC/DIRECTION``, so that MLflow's page shows them in a section of their own.
    If names become equal because characters are replaced for MLflow, later ones get a number as suffix.
    """
    named: dict[str, Figure] = {}
    for figure in figures:
        plain, direction = figure.name, figure.protocol.direction
        if named and direction:
            words = direction.replace(" -> ", " to ").replace(" ", "_").replace("/", "-")
            plain = f"{plain}/{mlflow_metric_name(words)}"
        longer = (f"{plain}-{number}" for number in itertools.count(2))
        taken = {*named, *(f"{name}.trivial" for name in named)}
        name = next(name for name in itertools.chain([plain], longer) if not {name, f"{name}.trivial"} & taken)
        named[name] = figure
    return named


def figure_metrics(figures: Sequence[Figure]) -> dict[str, float]:
    """Figures as MLflow metrics: their values, the ends of their intervals (``NAME.low``, ``NAME.high``) and baselines."""
    values: dict[str, float] = {}
    for name, figure in named_figures(figures).items():
        parts = {"": figure.value, ".low": figure.low, ".high": figure.high, ".trivial": figure.baseline}
        values |= {f"{name}{suffix}": value for suffix, value in parts.items() if value is not None}
    return values


def mlflow_metric_name(name: str) -> str:
    """Make ``name`` a valid MLflow metric name: letters, digits, ``_ - . : /`` and spaces, without ``.`` and ``..`` parts."""
    parts = re.sub(r"[^\w\-./ :]", "-", name[:_MAX_NAME_LENGTH]).split("/")
    return "/".join("-" if part in ("", ".", "..") else part for part in parts)


def figure_title(figure: Figure) -> str:
    """Name of a figure, with its direction of translation if it has one."""
    return f"{figure.name} {figure.protocol.direction}".strip()


def describe_figure(figure: Figure) -> str:
    """A figure in one line: value, 95 % interval and baseline, such as the figure of the untranslated source."""
    line = f"{figure_title(figure)}: {format_figure(figure.value)}"
    if figure.low is not None and figure.high is not None:
        line += f" [{format_figure(figure.low)}, {format_figure(figure.high)}]"
    if figure.baseline is not None:
        better = (figure.value > figure.baseline) == figure.higher_is_better and figure.value != figure.baseline
        trivial = baseline_name(figure.name)
        line += f"; {trivial} {format_figure(figure.baseline)}{'' if better else ', which is no worse'}"
    return line
