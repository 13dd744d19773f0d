"""Measuring a registered version anew: as the evaluate stage measures, on the data of the checkout."""

from pathlib import Path

from gan_core.data import PreparedDataset, user_cache_dir
from gan_core.errors import TrackingError
from gan_core.inference.generator import load_generator
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from pipelines.evaluation.measure import measure
from pipelines.registry.find import generator_folder
from pipelines.runtime.checkout import PREPARED
from pipelines.settings.schema import Settings


def measure_version(name: str, version: str, *, root: Path, settings: Settings) -> Figure:
    """The figure that versions of ``name`` are compared by, of one of them, with the settings and data at ``root``.

    Raises:
        TrackingError: there is no such version, or it makes pictures of another shape.
        DataError: there is no prepared dataset at ``root``.
    """
    dataset = PreparedDataset(root / PREPARED, cache_dir=user_cache_dir() / "decoded")
    with generator_folder(f"{name}/{version}", tracking_uri=settings.track.uri) as folder:
        generator = load_generator(folder, choose_device())
        made, here = generator.info["shape"], dataset.info
        if (made["height"], made["width"], made["channels"]) != (here.height, here.width, here.channels):
            raise TrackingError(
                f"Version {version} of '{name}' makes {made['height']}x{made['width']}x{made['channels']} pictures and "
                f"{dataset.directory} holds {here.height}x{here.width}x{here.channels}: no figure compares them."
            )
        return measure(generator, dataset, settings.evaluate).objective
