"""``gantry augment``: enlarge a dataset with generated pictures, and measure how much a classifier gains from them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from gan_core.errors import DataError, SettingsError
from gan_core.files import atomic_write, find_obstacle, write_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.progress import say

if TYPE_CHECKING:
    import torch

    from gan_core.data import PreparedDataset

AUGMENTED = Path("data/augmented")
REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A classifier's accuracy on the real test split, for each of several seeds."""

    real: tuple[float, ...]
    """Trained on the real pictures."""
    enlarged: tuple[float, ...]
    """Trained on the real and the generated pictures for the same number of steps."""
    steps: int
    test_pictures: int
    generator: str
    """The generator's digest."""
    dataset: str
    """The real dataset's digest."""
    learnt_from: str
    """The digest of the dataset that the generator was trained on; empty if unknown. If it is not ``dataset``, the generator
    may have been trained on the test pictures."""

    @property
    def gain(self) -> float:
        """Mean gain in accuracy."""
        return float(np.mean(self.enlarged) - np.mean(self.real))

    @property
    def noise(self) -> float | None:
        """Standard error of the gain over seeds; None for a single seed."""
        gains = np.subtract(self.enlarged, self.real)
        return float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else None


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", required=True, help="NAME, NAME/VERSION, NAME@ALIAS, a run's id, a folder.")
@click.option("--per-class", required=True, type=click.IntRange(min=1), help="Generated pictures for each class.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: data/augmented/NAME]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--truncation", type=float, help="Trade variety for fidelity.")
@click.option(
    "--steps", default=500, show_default=True, type=click.IntRange(min=1), help="Training steps of each classifier."
)
@click.option(
    "--runs",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Classifiers per dataset, each with its seed.",
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
    """Enlarge the prepared dataset DATA with generated pictures, and report how much a classifier gains from them.

    The columns generator, seed and index identify the generated pictures. The test split stays real: on it, classifiers trained
    with and without the generated pictures are compared. The report is report.json beside the data, and DVC tracks both. OUT is
    replaced only if an earlier gantry augment wrote it.
    """
    # Imported here: --help need not wait for torch.
    from gan_core.data import PreparedDataset
    from gan_core.inference.generator import load_generator
    from gan_core.precision import choose_device
    from pipelines.data.enlarge import check_generator, enlarge
    from pipelines.data.raw import track
    from pipelines.registry.find import generator_folder
    from pipelines.settings.tracking_uri import project_tracking_uri

    dataset = PreparedDataset(data)
    out = out or AUGMENTED / dataset.info.name
    _check_place(out, data)
    if "test" not in dataset.info.splits:
        raise DataError(
            f"{data} has no test split to compare classifiers on. Set ingest.test_share (for example 0.2) and ingest again."
        )
    where = choose_device(device)
    with generator_folder(model, tracking_uri=project_tracking_uri(Path.cwd())) as folder:
        generator = load_generator(folder, where)
    check_generator(generator, dataset.info)
    # The report appears together with the data: it marks the folder as an output of this command.
    with atomic_write(out) as folder:
        described = enlarge(dataset, generator, folder, per_class=per_class, seed=seed, truncation=truncation)
        accuracies = _accuracies(dataset, PreparedDataset(folder), steps=steps, runs=runs, device=where)
        report = Report(
            real=tuple(accuracies["real"]),
            enlarged=tuple(accuracies["enlarged"]),
            steps=steps,
            test_pictures=dataset.info.splits["test"],
            generator=generator.digest,
            dataset=dataset.info.digest,
            learnt_from=generator.info.get("dataset", ""),
        )
        write_json(folder / REPORT, {**asdict(report), "gain": report.gain, "noise": report.noise})
    tracked = track(out, Checkout.at()) if out.resolve().is_relative_to(Path.cwd()) else False
    click.echo(f"{out}: {described.splits['train']} training pictures, {per_class} of each class generated")
    click.echo(json.dumps({name: round(float(np.mean(values)), 4) for name, values in accuracies.items()}))
    noise = "from a single run, so the noise is unknown"
    if report.noise is not None:
        noise = f"standard error {100 * report.noise:.2f} over {runs} runs"
    click.echo(f"Accuracy changes by {100 * report.gain:+.2f} percentage points ({noise}).")
    if report.learnt_from != report.dataset:
        click.echo(
            f"Warning: the generator was trained on other data ({report.learnt_from[:12] or 'unknown'}) than {data} "
            f"({report.dataset[:12]}). It may have seen the test pictures, and then the gain means nothing. Train a generator "
            f"on {data}.",
            err=True,
        )
    click.echo(f"Tracked by {out.name}.dvc." if tracked else "Not versioned: it is not in a DVC repository.")


def _check_place(out: Path, data: Path) -> None:
    """Raise SettingsError if writing ``out`` would overwrite anything but the output of an earlier ``gantry augment``."""
    from gan_core.data import DATASET_FILE

    place, source = out.resolve(), data.resolve()
    if place == source or place in source.parents or source in place.parents:
        raise SettingsError(
            f"--out {out}: this would overwrite {data} or mix it with generated pictures. Name a separate folder."
        )
    found = "it is a link" if out.is_symlink() else find_obstacle(out, folder=True)
    missing = [name for name in (DATASET_FILE, REPORT) if not (out / name).is_file()]
    if found is None and missing and out.is_dir() and any(out.iterdir()):
        found = f"the folder is not empty and not the output of gantry augment ({missing[0]} is missing)"
    if found:
        raise SettingsError(f"--out {out}: {found}. Name another folder.")


def _accuracies(
    dataset: "PreparedDataset", enlarged: "PreparedDataset", *, steps: int, runs: int, device: "torch.device"
) -> dict[str, list[float]]:
    """Accuracies on the real test split, one for each run: of classifiers trained on the real and on the enlarged data."""
    from gan_core.metrics.classifier import accuracy

    test, classes = _labelled(dataset, "test"), len(dataset.info.classes)
    sets = {"real": _labelled(dataset, "train"), "enlarged": _labelled(enlarged, "train")}
    accuracies: dict[str, list[float]] = {name: [] for name in sets}
    for run in range(runs):
        for name, train in sets.items():
            accuracies[name].append(accuracy(train, test, classes=classes, steps=steps, seed=run, device=device))
            say("augment", f"classifier {run + 1} of {runs}, {name} data: accuracy {accuracies[name][-1]:.2%}")
    return accuracies


def _labelled(dataset: "PreparedDataset", split: str) -> tuple[np.ndarray, np.ndarray]:
    labels = dataset.labels(split)
    if labels is None:
        raise DataError(f"{dataset.directory} has no labels.")
    pixels = dataset.pixels(split)
    assert isinstance(pixels, np.ndarray)  # a dataset on this machine is not streamed
    return pixels, labels
