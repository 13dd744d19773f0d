"""The run of the pipeline in MLflow: everything by which two runs are compared, whichever stages ran and whichever were cached.

``python -m pipelines.stages.results`` records the results of the checkout in the current folder for the run that
GANTRY_PIPELINE_RUN names. The flow calls it if its last stages were cached.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gan_core.data import DATASET_FILE, PreparedDataset
from gan_core.errors import StageError
from gan_core.files import read_json
from gan_core.inference.description import DESCRIPTION
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from pipelines.evaluation.measure import figure_metrics, figure_title
from pipelines.registry.inputs import read_figures
from pipelines.registry.markdown import code_span, escape_markdown
from pipelines.runtime.checkout import CURVES, DVC_LOCK, DVC_YAML, FID_CURVE, Checkout
from pipelines.runtime.dvc_yaml import parse_as_dvc
from pipelines.runtime.failures import explain_error
from pipelines.runtime.git import current_commit
from pipelines.runtime.key import read_stages
from pipelines.runtime.progress import format_duration
from pipelines.runtime.redaction import redact_output
from pipelines.runtime.versions import version_tags
from pipelines.settings.departures import UNDECISIVE
from pipelines.settings.schema import Settings, load_settings
from pipelines.stages.context import pipeline_run_key
from pipelines.stages.parent import recorded_inputs
from pipelines.stages.tracked import dataset_inputs
from pipelines.tracking import RunLog, Shipper
from pipelines.tracking.facts import WALL, RunFacts, find_facts
from pipelines.tracking.runlog import flatten, texts
from pipelines.tracking.tree import destination_name
from pipelines.training.cost import DEVICE_SECONDS, KIMG, MEMORY, RATE
from pipelines.training.curves import last_step
from pipelines.training.run_tags import DEVICE, WORKERS

NOTE = "mlflow.note.content"
"""Tag of a run: its description, which MLflow shows as Markdown."""
COSTLY = ("ingest", "tune", "train", "evaluate")
"""The stages whose time is the cost of a generator."""
CHECKED = ("ingest", "train", "evaluate")
"""The stages whose settings are recorded with the results. Those of the search are not: its result is part of training's."""
_RESOLVED = ("model.", "train.")
_FEW = 12
_NULL = "null"
"""A setting without a value, as a parameter of a run."""


def decisive_params(settings: Settings) -> dict[str, str]:
    """The settings that determine the result, by dotted name, as parameters of a run. Those of model and train are resolved."""
    sections = settings.as_dict()
    ingest = {name: sections["ingest"][name] for name in ("kind", "size", "channels", "fit")}
    chosen = {**{name: sections[name] for name in ("model", "train", "evaluate")}, "ingest": ingest}
    flat = texts(flatten({**chosen, "tune": {"trials": settings.tune.trials}}))
    return {name: value for name, value in flat.items() if name not in UNDECISIVE}


def data_params(checkout: Checkout, settings: Settings) -> dict[str, str]:
    """Name and digests of the data: DVC's hash of the raw data, and the digest of the prepared pictures."""
    digest = next(iter(dataset_inputs(checkout).values()), None)
    raw = {"data.digest": digest} if digest else {}
    described = checkout.prepared / DATASET_FILE
    prepared = {"data.prepared_digest": str(read_json(described).get("digest"))} if described.is_file() else {}
    return {"data": settings.data.name, **raw, **prepared}


def check_recorded_settings(checkout: Checkout, stages: Sequence[str]) -> None:
    """Check that the settings of ``stages``, which have run, are those of params.yaml: a run is recorded with these.

    They are not if params.yaml was edited meanwhile, for example for the next run: a stage only depends on its own settings.
    A stage that dvc.lock does not have is accepted, and so is a frozen one.

    Raises:
        StageError: params.yaml has other settings than a stage ran with; names them.
    """
    if not checkout.dvc_lock.is_file():
        return
    ran = parse_as_dvc(checkout.dvc_lock.read_text(encoding="utf-8"), DVC_LOCK).get("stages") or {}
    defined = parse_as_dvc(checkout.dvc_yaml.read_text(encoding="utf-8"), DVC_YAML).get("stages") or {}
    for name, now in read_stages(stages, checkout).items():
        if name not in ran or defined[name].get("frozen"):
            continue
        if changed := now.differences(replace(now, parameters=ran[name].get("params") or {})):
            raise StageError(
                f"The settings of stage '{name}' were changed after it had run: {', '.join(changed)}. Its results would be "
                "recorded with settings that did not make them. Undo the change, or run the stage with it: gantry run."
            )


def record_results(
    checkout: Checkout,
    settings: Settings,
    pipeline_run: str,
    *,
    metrics: Path | None = None,
    samples: Path | None = None,
    neighbours: Path | None = None,
) -> dict[str, str]:
    """Record in the run of the pipeline what two runs are compared by.

    That is: the settings as resolved, the data, all figures, the cost, sheets and curves, dvc.lock, the versions and a
    description. What a cached stage recorded when it ran comes from its own run.

    Args:
        checkout: whose results to record.
        settings: of its params.yaml.
        pipeline_run: key of the run of the pipeline.
        metrics: file with the figures; None for that of the checkout.
        samples: the contact sheet; None for that of the checkout.
        neighbours: the sheet of the closest pairs; None for that of the checkout.

    Returns:
        The tags that say by which commit, versions and device the generator was trained, if that is known; else, those of here.
    """
    metrics, samples = metrics or checkout.metrics, samples or checkout.samples
    neighbours = neighbours or checkout.neighbours
    facts = _find_facts(checkout, settings)
    train = facts.get("train", RunFacts())
    resolved = {name: value for name, value in train.params.items() if name.startswith(_RESOLVED)}
    minutes = settings.train.minutes
    steps = None if minutes is None else last_step(checkout.out(CURVES))
    if not resolved:
        settings = _resolve(settings.with_steps(steps) if steps else settings, checkout)
    params = data_params(checkout, settings) | decisive_params(settings)
    if minutes is not None:
        params |= {"train.minutes": f"{minutes:g}", "train.steps": str(steps) if steps else "unknown"}
    params |= {name: value for name, value in resolved.items() if name not in UNDECISIVE}
    figures = read_figures(metrics) if metrics.is_file() else []
    cost = _cost(facts)
    machine = {name: train.tags[name] for name in (DEVICE, WORKERS) if name in train.tags}
    made_with = current_commit(checkout.root).tags | version_tags() | machine
    made_with |= {name: train.tags[name] for name in made_with if name in train.tags}
    protocol = {"gantry.protocol": figures[0].protocol.stamp} if figures else {}
    destination = destination_name(settings.track.uri, settings.track.experiment)
    name = f"{settings.data.name} {pipeline_run}"
    with RunLog(checkout.events, key=pipeline_run, name=name, destination=destination) as log:
        log.log_params(params)
        log.log_metrics({**figure_metrics(figures), **cost}, _step(checkout))
        curves = (checkout.out(CURVES), checkout.out(FID_CURVE))
        for path in (metrics, samples, neighbours, *curves, checkout.dvc_lock):
            if path.is_file():
                log.log_artifact(path)
        # MLflow's chart view opens at step 0: there it shows the sheets of several runs side by side.
        for key, sheet in (("samples", samples), ("closest pairs", neighbours)):
            if sheet.is_file():
                log.log_image(sheet, key, 0)
        log.set_tags({**made_with, **protocol, NOTE: describe_run(params, figures, cost, made_with)})
    return made_with


def describe_run(
    params: Mapping[str, str], figures: Sequence[Figure], cost: Mapping[str, float], made_with: Mapping[str, str]
) -> str:
    """The description of a run of the pipeline, as Markdown. Names of classes and data are escaped."""
    said = {name: escape_markdown(value) for name, value in params.items()}
    budget = said.get("train.minutes", _NULL)
    decided = "" if budget == _NULL else f" (in {budget} minutes)"
    lines = [
        f"**{said['model.family']}** on **{said['data']}**: {said['train.steps']} steps{decided} of "
        f"{said['train.batch']} pictures, "
        f"learning rates {said['train.generator_lr']} (generator) and {said['train.discriminator_lr']} (discriminator), "
        f"augmentation {said['train.augment.kind']}, seed {said['train.seed']}."
    ]
    if figures:
        lines += ["", "| figure | value | 95 % interval |", "|---|---|---|"]
        for figure in figures[:_FEW]:
            ends = "" if figure.low is None or figure.high is None else f"{figure.low:.5g} to {figure.high:.5g}"
            lines.append(f"| {escape_markdown(figure_title(figure))} | {figure.value:.5g} | {ends} |")
        if len(figures) > _FEW:
            lines += ["", f"{len(figures) - _FEW} more figures are among the metrics."]
        lines += ["", f"Protocol of {escape_markdown(figures[0].name)}: {escape_markdown(figures[0].protocol.stamp)}."]
    known = ", ".join(f"{name.removeprefix('gantry.')} {code_span(value)}" for name, value in sorted(made_with.items()))
    return "\n".join([*lines, "", f"Cost: {describe_cost(cost)}.", "", f"Made with: {known}."])


def describe_cost(cost: Mapping[str, float]) -> str:
    """The cost of a run in words."""
    said = [f"{format_duration(cost[WALL])} for the stages"] if WALL in cost else []
    if DEVICE_SECONDS in cost:
        said.append(f"{format_duration(cost[DEVICE_SECONDS])} of device time in the steps")
        said.append(f"{cost[KIMG]:.1f} kimg at {cost[RATE]:.0f} images/s")
    if MEMORY in cost:
        said.append(f"peak memory {cost[MEMORY]:.2f} GiB")
    return ", ".join(said) or "not known here, because the stages ran elsewhere"


def _find_facts(checkout: Checkout, settings: Settings) -> dict[str, RunFacts]:
    """What the runs of the costly stages recorded, with the inputs that they have now, by stage."""
    facts = {}
    for stage, definition in read_stages(COSTLY, checkout).items():
        key = definition.with_inputs(recorded_inputs(definition, checkout)).key
        found = find_facts(checkout.events, key, tracking_uri=settings.track.uri, experiment=settings.track.experiment)
        if found:
            facts[stage] = found
    return facts


def _resolve(settings: Settings, checkout: Checkout) -> Settings:
    """The settings as the train stage would resolve them here, for a generator whose training is not recorded anywhere."""
    if settings.model.preset != "none":
        chosen, _ = settings.choices(PreparedDataset(checkout.prepared).info, choose_device())
        settings = settings.with_values({"model.preset": "none", **{choice.name: choice.value for choice in chosen}})
    return settings.with_values(read_json(checkout.best)["parameters"] if checkout.best.is_file() else {})


def _cost(facts: Mapping[str, RunFacts]) -> dict[str, float]:
    """The cost of all stages. Without the time of the train stage, the time of the others would mislead."""
    train = facts.get("train", RunFacts()).metrics
    cost = {name: train[name] for name in (DEVICE_SECONDS, KIMG, RATE, MEMORY) if name in train}
    if WALL in train:
        cost[WALL] = sum(found.metrics.get(WALL, 0.0) for found in facts.values())
    return cost


def _step(checkout: Checkout) -> int:
    """The step of the generator, at which its figures are logged."""
    described = checkout.generator / DESCRIPTION
    return int(read_json(described)["step"]) if described.is_file() else 0


def main() -> None:
    """Record the results of the checkout in the current folder, and send them. An error becomes one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    redact_output()
    checkout = Checkout.at()
    try:
        settings = load_settings(checkout.params)
        check_recorded_settings(checkout, CHECKED)
        with Shipper(checkout.events, tracking_uri=settings.track.uri, experiment=settings.track.experiment):
            record_results(checkout, settings, pipeline_run_key())
    except Exception as error:
        sys.exit(f"error: {explain_error(error)}")


if __name__ == "__main__":
    main()
