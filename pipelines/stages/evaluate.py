"""The evaluate stage: prepared data and a generator in; its figures with their protocols and a contact sheet out."""

from pathlib import Path

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.files import write_json
from gan_core.images.grid import save_sheet
from gan_core.inference.generator import Generator, load_generator
from gan_core.precision import choose_device
from gan_core.training.feed import preview_batch
from pipelines.evaluation.measure import describe_figure, measure, metric_values, metrics_json
from pipelines.runtime.checkout import PREPARED
from pipelines.runtime.progress import say
from pipelines.settings.schema import Settings
from pipelines.stages.context import StageContext
from pipelines.stages.tracked import stage_run

OUT = "outputs/evaluate"
METRICS, SHEET = "metrics.json", "samples.png"
SHEET_PICTURES = 100
SAID = 12
"""Figures that are told beside the objective: directions among many domains have dozens."""


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Measure the generator of the train stage; a published figure is always measured in fp32."""
    metrics, sheet = context.work / METRICS, context.work / SHEET
    chosen = settings.evaluate
    generator = load_generator(context.root / "outputs/train/generator", choose_device())
    dataset = PreparedDataset(context.root / PREPARED, cache_dir=user_cache_dir() / "decoded")
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
        say("evaluate", f"and {len(others) - SAID} figures more in {OUT}/{METRICS}")
    return {f"{OUT}/{METRICS}": metrics, f"{OUT}/{SHEET}": sheet}


def draw_sheet(path: Path, generator: Generator, dataset: PreparedDataset, seed: int) -> None:
    """Pictures drawn from noise; of a generator that translates, always the same pictures beside what it makes of them."""
    if not generator.translates:
        save_sheet(path, generator.sample(SHEET_PICTURES, seed))
        return
    split = "test" if dataset.info.splits.get("test") else "train"
    pictures, columns = generator.preview(preview_batch(dataset, split, choose_device()))
    save_sheet(path, pictures, columns=columns)
