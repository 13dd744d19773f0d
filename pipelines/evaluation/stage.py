"""The evaluate stage: prepared data and a generator in; the FID with its protocol and a contact sheet out."""

from pathlib import Path

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.files import write_json
from gan_core.generator import load_generator
from gan_core.grid import save_sheet
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.inception import load_inception
from gan_core.precision import choose_device
from pipelines.progress import say
from pipelines.settings import Settings
from pipelines.stages.context import StageContext
from pipelines.tracking.stage import stage_run

OUT = "outputs/evaluate"
METRICS, SHEET = "metrics.json", "samples.png"
SHEET_PICTURES = 100


def run(context: StageContext, settings: Settings) -> dict[str, Path]:
    """Measure the generator of the train stage; a published figure is always measured in fp32."""
    metrics, sheet = context.work / METRICS, context.work / SHEET
    chosen = settings.evaluate
    device = choose_device()
    generator = load_generator(context.root / "outputs/train/generator", device)
    dataset = PreparedDataset(context.root / "data/prepared", cache_dir=user_cache_dir() / "decoded")
    with stage_run(context, settings) as run:
        run.params({"evaluate": settings.as_dict()["evaluate"]})
        save_sheet(sheet, generator.sample(SHEET_PICTURES, chosen.seed))
        run.artifact(sheet)
        figure = fid_of_samples(
            generator.sample,
            dataset,
            split=chosen.split,
            count=chosen.samples,
            real_count=chosen.real or dataset.info.splits.get(chosen.split),
            seed=chosen.seed,
            extractor=load_inception(device=device, precision="fp32", features=chosen.features),
            generator_digest=generator.digest,
            batch_size=chosen.batch,
            progress=True,
        )
        run.metrics({"fid": figure.value}, generator.info["step"])
        run.tags({"gantry.protocol": figure.protocol.stamp, "gantry.generator": generator.digest})
        write_json(metrics, {"fid": figure.as_dict()})
        run.artifact(metrics)
    say("evaluate", f"FID {figure.value:.2f} ({figure.protocol.stamp})")
    return {f"{OUT}/{METRICS}": metrics, f"{OUT}/{SHEET}": sheet}
