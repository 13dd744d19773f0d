"""Measure a registered version again, as the evaluate stage does, on the data of the checkout."""

from gan_core.cache import user_cache_dir
from gan_core.data import PreparedDataset
from gan_core.errors import TrackingError
from gan_core.inference.generator import load_generator
from gan_core.metrics.assess import Assessment
from gan_core.metrics.translated_data import check_translates
from gan_core.precision import choose_device
from pipelines.evaluation.measure import measure
from pipelines.registry.contents import find_generator, version_files
from pipelines.registry.find import find_version
from pipelines.runtime.checkout import Checkout
from pipelines.settings.schema import Settings
from pipelines.tracking.store import explain_server_errors


def measure_version(name: str, version: str, *, checkout: Checkout, settings: Settings) -> Assessment:
    """Measure all figures of a version of ``name``, with the settings and data of ``checkout``.

    Raises:
        TrackingError: there is no such version, or its pictures have another shape than the data.
        DataError: there is no prepared dataset in ``checkout``, or the version translates between other domains, attributes or
            kinds of pictures than the data has.
    """
    dataset = PreparedDataset(checkout.prepared, cache_dir=user_cache_dir() / "decoded")
    dataset = dataset.streamed_above(settings.train.decoded_gib)
    with explain_server_errors(settings.track.uri):
        # Not by find_model(), which takes a folder NAME/VERSION first.
        found = find_version(f"{name}/{version}", settings.track.uri)
        with version_files(found, settings.track.uri) as files:
            generator = load_generator(find_generator(files, found), choose_device())
    made, here = generator.info["shape"], dataset.info
    if (made["height"], made["width"], made["channels"]) != (here.height, here.width, here.channels):
        raise TrackingError(
            f"Version {version} of '{name}' cannot be measured on {dataset.directory}: it makes pictures of "
            f"{made['height']}x{made['width']}x{made['channels']}, and the data has {here.height}x{here.width}x"
            f"{here.channels}. Use the data that it was trained on."
        )
    if generator.translates:  # its domains are numbers, which would name other domains of the data
        check_translates(generator, here)
    return measure(generator, dataset, settings.evaluate)
