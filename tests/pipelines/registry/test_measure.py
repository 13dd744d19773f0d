"""A registered version measured again gives the figure that the evaluate stage would give on the current data."""

import dataclasses
import json

import pytest

from gan_core.errors import DataError, TrackingError
from gan_core.inference.generator import load_generator
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.inception import load_inception
from pipelines.registry.measure import measure_version
from pipelines.runtime.checkout import Checkout
from tests.datasets import blobs, write_prepared
from tests.gan_core.families.translations import write_data
from tests.pipelines.settings_example import small_settings
from tests.pipelines.translators import export


def settings(uri):
    small = small_settings(evaluate__samples=6, evaluate__real=8, evaluate__features=64)
    return dataclasses.replace(small, track=dataclasses.replace(small.track, uri=uri))


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_a_version_is_measured_as_the_evaluate_stage_does(register, generator_dir, uri, tmp_path):
    from gan_core.data import PreparedDataset

    dataset = PreparedDataset(write_prepared(tmp_path / "data" / "prepared", blobs(8)))
    figure = measure_version(
        "digits", register().version, checkout=Checkout.at(tmp_path), settings=settings(uri)
    ).objective
    generator = load_generator(generator_dir)
    expected = fid_of_samples(
        generator.sample,
        dataset,
        split="train",
        count=6,
        real_count=8,
        seed=0,
        extractor=load_inception("cpu", features=64),
        generator_digest=generator.digest,
    )
    assert figure.value == pytest.approx(expected.value, rel=1e-6)
    assert figure.protocol == expected.protocol


def test_a_folder_with_the_name_of_the_version_is_not_measured_in_its_place(register, uri, tmp_path, monkeypatch):
    version = register().version
    other = export(tmp_path / "digits" / version, "stargan")
    write_prepared(tmp_path / "data" / "prepared", blobs(8, size=32))
    monkeypatch.chdir(tmp_path)
    assert (other / "generator.json").is_file()
    with pytest.raises(TrackingError, match="it makes pictures of 16x16x1, and the data has 32x32x1"):
        measure_version("digits", version, checkout=Checkout.at(tmp_path), settings=settings(uri))


def test_a_version_with_another_picture_shape_is_refused(register, uri, tmp_path):
    write_prepared(tmp_path / "data" / "prepared", blobs(8, size=32))
    with pytest.raises(TrackingError, match="prepared: it makes pictures of 16x16x1, and the data has 32x32x1"):
        measure_version("digits", register().version, checkout=Checkout.at(tmp_path), settings=settings(uri))


def test_a_version_that_translates_between_other_domains_is_refused(register, uri, tmp_path):
    """A new domain comes first in the alphabet: the generator's 0, 1 and 2 would now be others."""
    generator = export(tmp_path / "g", "stargan")
    data = write_data("stargan", tmp_path / "data" / "prepared")
    described = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(described | {"classes": ["ant", "cat", "dog"]}))
    with pytest.raises(DataError, match="has the classes ant, cat, dog, and the generator cat, dog, owl"):
        measure_version(
            "digits",
            register(generator_dir=generator).version,
            checkout=Checkout.at(tmp_path),
            settings=settings(uri),
        )
