"""Measure a generator with the settings of params.yaml; name and describe its figures."""

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

_MAX_NAME_LENGTH = 200
"""In characters. MLflow's limit is 250, and a suffix may be appended."""


def measure(generator: Generator, dataset: PreparedDataset, chosen: EvaluateSettings) -> Assessment:
    """Measure a generator with the settings of params.yaml.

    Raises:
        SettingsError: ``evaluate.real`` is larger than the split.
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


def metrics_json(measured: Assessment) -> dict[str, Any]:
    """Content of metrics.json: ``fid``, the objective; ``figures``, all figures; ``values``, their values by metric name.

    ``values`` is for ``dvc metrics``, which shows numbers by name and skips lists.
    """
    figures = [figure.as_dict() for figure in measured.figures]
    return {"fid": measured.objective.as_dict(), "figures": figures, "values": metric_values(measured)}


def metric_values(measured: Assessment) -> dict[str, float]:
    """The values of all figures by metric name, with their baselines as ``NAME.trivial``.

    The objective is named ``fid``, also if it is a mean. If names become equal because characters are replaced for MLflow,
    later ones get a number as suffix.
    """
    values = {"fid": measured.objective.value}
    for figure in measured.figures:
        if figure == measured.objective:
            name = figure.name
        else:
            plain = mlflow_metric_name(figure_title(figure).replace(" -> ", " to ").replace(" ", "_"))
            longer = (f"{plain}-{number}" for number in itertools.count(2))
            name = next(name for name in itertools.chain([plain], longer) if not {name, f"{name}.trivial"} & {*values})
        values[name] = figure.value
        if figure.baseline is not None:
            values[f"{name}.trivial"] = figure.baseline
    return values


def mlflow_metric_name(name: str) -> str:
    """Make ``name`` a valid MLflow metric name: letters, digits, ``_ - . : /`` and spaces, without ``.`` and ``..`` parts."""
    parts = re.sub(r"[^\w\-./ :]", "-", name[:_MAX_NAME_LENGTH]).split("/")
    return "/".join("-" if part in ("", ".", "..") else part for part in parts)


def figure_title(figure: Figure) -> str:
    """Name of a figure, with its direction of translation if it has one."""
    return f"{figure.name} {figure.protocol.direction}".strip()


def describe_figure(figure: Figure) -> str:
    """A figure in one line: value, 95 % interval and baseline, the figure of the untranslated source."""
    line = f"{figure_title(figure)}: {compact(figure.value)}"
    if figure.low is not None and figure.high is not None:
        line += f" [{compact(figure.low)}, {compact(figure.high)}]"
    if figure.baseline is not None:
        better = (figure.value > figure.baseline) == figure.higher_is_better and figure.value != figure.baseline
        line += f"; untranslated source {compact(figure.baseline)}{'' if better else ', which is no worse'}"
    return line
