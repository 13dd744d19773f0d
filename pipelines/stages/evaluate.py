"""The evaluate stage: prepared data and a generator in; its figures with their protocols and a contact sheet out."""

from pathlib import Path

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.files import write_json
from gan_core.inference.generator import load_generator
from gan_core.precision import choose_device
from pipelines.evaluation.measure import describe_figure, measure, metric_values, metrics_json
from pipelines.evaluation.sheet import draw_sheet
from pipelines.runtime.checkout import METRICS, SAMPLES
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run

SAID = 12
"""Figures that are told beside the objective: directions among many domains have dozens."""


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Measure the generator of the train stage; a published figure is always measured in fp32."""
    metrics, sheet = context.work / "metrics.json", context.work / "samples.png"
    chosen = settings.evaluate
    generator = load_generator(context.checkout.generator, choose_device())
    dataset = PreparedDataset(context.checkout.prepared, cache_dir=user_cache_dir() / "decoded")
    with stage_run(context, settings) as run:
        run.log_params({"evaluate": settings.as_dict()["evaluate"]})
        draw_sheet(sheet, generator, dataset, chosen.seed)
        run.log_artifact(sheet)
        measured = measure(generator, dataset, chosen)
        if generator.translates and measured.objective.protocol.split == "train":
            held_out = dataset.info.splits.get("test")
            remedy = "evaluate.split: test holds others" if held_out else "ingest.test_share holds others out"
            say("evaluate", f"measured on pictures that the generator has learnt from; {remedy}")
        objective = measured.objective
        run.log_metrics(metric_values(measured), generator.info["step"])
        run.set_tags({"gantry.protocol": objective.protocol.stamp, "gantry.generator": generator.digest})
        write_json(metrics, metrics_json(measured))
        run.log_artifact(metrics)
    say("evaluate", f"{describe_figure(objective)} ({objective.protocol.stamp})")
    others = [figure for figure in measured.figures if figure != objective]
    for figure in others[:SAID]:
        say("evaluate", describe_figure(figure))
    if others[SAID:]:
        say("evaluate", f"and {len(others) - SAID} figures more in {METRICS}")
    return {METRICS: metrics, SAMPLES: sheet}
