"""``gantry augment``: a dataset enlarged by generated pictures, and what they are worth to a classifier."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.files import write_json
from gan_core.generator import load_generator
from gan_core.metrics.classifier import accuracy
from gan_core.precision import choose_device
from pipelines.data.enlarge import check_generator, enlarge
from pipelines.data.raw import track
from pipelines.params import project_tracking_uri
from pipelines.progress import say
from pipelines.registry.find import generator_folder

AUGMENTED = Path("data/augmented")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A classifier's accuracy on the real test split, for each of several seeds."""

    real: tuple[float, ...]
    """Trained on the real pictures."""
    enlarged: tuple[float, ...]
    """Trained on them and the generated ones, as many steps."""
    steps: int
    test_pictures: int
    generator: str
    """The generator's digest."""
    dataset: str
    """The real dataset's digest."""

    @property
    def gain(self) -> float:
        """Mean gain in accuracy."""
        return float(np.mean(self.enlarged) - np.mean(self.real))

    @property
    def noise(self) -> float:
        """Standard error of the gain over seeds."""
        gains = np.subtract(self.enlarged, self.real)
        return float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else float("nan")


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, help="NAME, NAME/VERSION, NAME@ALIAS, a run's id, a folder.")
@click.option("--per-class", required=True, type=click.IntRange(min=1), help="Generated pictures for each class.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: data/augmented/NAME]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--truncation", type=float, help="Less variety for more fidelity.")
@click.option(
    "--steps", default=500, show_default=True, type=click.IntRange(min=1), help="Of each classifier's training."
)
@click.option(
    "--runs", default=3, show_default=True, type=click.IntRange(min=1), help="Classifiers for each of the two."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def augment(
    data: Path,
    model: str,
    per_class: int,
    out: Path | None,
    seed: int,
    truncation: float | None,
    steps: int,
    runs: int,
    device: str,
) -> None:
    """Write the prepared dataset DATA enlarged by generated pictures, and report what a classifier gains by them.

    The columns generator, seed and index say which pictures are generated, by what, and which ones they are. The test
    split stays real; two classifiers, one trained without and one with the generated pictures, are compared on it. The
    report is report.json beside the data; DVC tracks both.
    """
    dataset = PreparedDataset(data)
    if "test" not in dataset.info.splits:
        raise DataError(
            f"{data} has no test split to compare classifiers on. Set ingest.test_share, to 0.2 for instance, and ingest "
            "again."
        )
    where = choose_device(device)
    with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
        generator = load_generator(folder, where)
    check_generator(generator, dataset.info)
    out = out or AUGMENTED / dataset.info.name
    described = enlarge(dataset, generator, out, per_class=per_class, seed=seed, truncation=truncation)
    test, classes = _labelled(dataset, "test"), len(dataset.info.classes)
    accuracies: dict[str, list[float]] = {"real": [], "enlarged": []}
    sets = {"real": _labelled(dataset, "train"), "enlarged": _labelled(PreparedDataset(out), "train")}
    for run in range(runs):
        for name, train in sets.items():
            accuracies[name].append(accuracy(train, test, classes=classes, steps=steps, seed=run, device=where))
            say("augment", f"classifier {run + 1} of {runs}, {name}: {accuracies[name][-1]:.2%} right")
    report = Report(
        real=tuple(accuracies["real"]),
        enlarged=tuple(accuracies["enlarged"]),
        steps=steps,
        test_pictures=len(test[0]),
        generator=generator.digest,
        dataset=dataset.info.digest,
    )
    write_json(out / "report.json", {**asdict(report), "gain": report.gain, "noise": report.noise})
    tracked = track(out, Path.cwd()) if out.resolve().is_relative_to(Path.cwd()) else False
    click.echo(f"{out}: {described.splits['train']} training pictures, {per_class} of each class generated")
    click.echo(json.dumps({name: round(float(np.mean(values)), 4) for name, values in accuracies.items()}))
    click.echo(f"Accuracy changes by {report.gain:+.2%} (standard error {report.noise:.2%} over {runs} runs).")
    click.echo(f"Tracked by {out.name}.dvc." if tracked else "Not versioned: no DVC repository holds it.")


def _labelled(dataset: PreparedDataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    labels = dataset.labels(split)
    if labels is None:
        raise DataError(f"{dataset.directory} has no labels.")
    return dataset.pixels(split), labels
