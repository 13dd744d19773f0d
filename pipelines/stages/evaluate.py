"""The evaluate stage: measure the generator of the train stage and draw a contact sheet."""

from pathlib import Path

from gan_core.cache import user_cache_dir
from gan_core.data import PreparedDataset
from gan_core.files import write_json, write_text
from gan_core.inference.generator import load_generator
from gan_core.precision import choose_device
from pipelines.evaluation.cluster import measure_on_cluster, on_cluster
from pipelines.evaluation.measure import (
    describe_copying,
    describe_figure,
    measure,
    metric_values,
    metrics_json,
    shares_csv,
)
from pipelines.evaluation.sheet import draw_neighbours, draw_sheet
from pipelines.runtime.checkout import METRICS, NEIGHBOURS, SAMPLES, SHARES
from pipelines.runtime.cluster import ray_cluster
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext, check_inputs
from pipelines.stages.results import CHECKED, check_recorded_settings, record_results
from pipelines.stages.tracked import stage_run

MAX_PRINTED_FIGURES = 12
"""Maximum number of figures to print beside the objective. Translation between many domains has dozens."""


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Measure the generator, always in fp32, here or on a cluster with a storage; returns the stage's outs."""
    metrics, sheet = context.work / "metrics.json", context.work / "samples.png"
    neighbours, shares = context.work / "neighbours.png", context.work / "shares.csv"
    check_recorded_settings(context.checkout, [stage for stage in CHECKED if stage != context.name])
    chosen = settings.evaluate
    generator = load_generator(context.checkout.generator, choose_device())
    dataset = PreparedDataset(context.checkout.prepared, cache_dir=user_cache_dir() / "decoded")
    dataset = dataset.streamed_above(settings.train.decoded_gib)

    def record() -> None:
        check_inputs(context)
        record_results(
            context.checkout, settings, context.pipeline_run, metrics=metrics, samples=sheet, neighbours=neighbours
        )

    with stage_run(context, settings, finally_record=record) as run:
        run.log_params({"evaluate": settings.as_dict()["evaluate"]})
        if on_cluster(settings):
            with ray_cluster(context.checkout, log_to_driver=False):
                checkout = context.checkout
                measured = measure_on_cluster(checkout.generator, checkout.prepared, sheet, settings, context.key)
            run.log_artifact(sheet)
        else:
            draw_sheet(sheet, generator, dataset, chosen.seed)
            run.log_artifact(sheet)
            measured = measure(generator, dataset, chosen)
        if generator.translates and measured.objective.protocol.split == "train":
            held_out = dataset.info.splits.get("test")
            remedy = "evaluate.split: test" if held_out else "ingest.test_share to keep a test split"
            say("evaluate", f"measured on training pictures; to measure on others, set {remedy}")
        objective = measured.objective
        run.log_metrics(metric_values(measured), generator.info["step"])
        run.set_tags({"gantry.protocol": objective.protocol.stamp, "gantry.generator": generator.digest})
        write_json(metrics, metrics_json(measured))
        write_text(shares, shares_csv(measured))
        pairs = measured.findings.pairs
        assert pairs is not None
        draw_neighbours(neighbours, pairs)
        run.log_artifact(metrics)
        run.log_artifact(neighbours)
    say("evaluate", f"{describe_figure(objective)} ({objective.protocol.stamp})")
    others = [figure for figure in measured.figures if figure != objective]
    for figure in others[:MAX_PRINTED_FIGURES]:
        say("evaluate", describe_figure(figure))
    if others[MAX_PRINTED_FIGURES:]:
        say("evaluate", f"and {len(others) - MAX_PRINTED_FIGURES} more figures in {METRICS}")
    for name, reason in measured.findings.omitted.items():
        say("evaluate", f"{name} is not measured: {reason}")
    if measured.findings.copying is not None:
        say("evaluate", describe_copying(measured.findings.copying))
    return {METRICS: metrics, SAMPLES: sheet, NEIGHBOURS: neighbours, SHARES: shares}
