"""``assess`` measures the metrics of each kind of data, with baselines; the objective is the first figure."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.images.colour import lightness
from gan_core.metrics import domain_classifier
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.frechet import Moments, frechet_distance
from gan_core.metrics.inception import Extractor
from gan_core.metrics.neighbours import NAMES
from gan_core.metrics.protocol import Figure
from gan_core.metrics.sources import random_subset
from tests.datasets import blobs, write_prepared

N = 40
Directions = tuple[tuple[int | None, int | None], ...]


class Inverter:
    """A subject that samples noise and translates by a given function."""

    def __init__(
        self, directions: Directions = (), answer: Callable[[torch.Tensor], torch.Tensor] = lambda images: 255 - images
    ) -> None:
        self.directions = directions
        self.translates = bool(directions)
        self._answer = answer
        self.asked: list[int | None] = []

    def sample(self, n: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(blobs(n, seed=seed + 100))

    def translate(
        self, images: torch.Tensor, target: int | None = None, seed: int = 0, *, first: int = 0
    ) -> torch.Tensor:
        self.asked.append(target)
        return self._answer(images)


@pytest.fixture
def measure(averages: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Assessment]:
    monkeypatch.setattr(domain_classifier, "STEPS", (15, 15))

    def run(subject: Inverter, dataset: PreparedDataset, **more: object) -> Assessment:
        chosen = {"split": "train", "count": N, "seed": 3, "generator_digest": "g", **more}
        return assess(subject, dataset, extractor=averages, cache_dir=tmp_path / "features", **chosen)

    return run


def prepared(folder: Path, *arguments: object, **more: object) -> PreparedDataset:
    return PreparedDataset(write_prepared(folder, *arguments, **more))


def two_domains(folder: Path, kind: str) -> PreparedDataset:
    """Dark blobs, and the same inverted."""
    labels, pixels = np.arange(N + 10) % 2, blobs(N + 10)
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return prepared(folder, pixels, labels, kind=kind)


def by_name(assessment: Assessment, name: str, direction: str) -> Figure:
    (found,) = (f for f in assessment.figures if (f.name, f.protocol.direction) == (name, direction))
    return found


def test_assess_of_samples_gives_the_same_fid_as_fid_of_samples(
    measure: Callable[..., Assessment], tmp_path: Path, averages: Extractor
) -> None:
    dataset = prepared(tmp_path / "d", blobs(100))
    for count in (30, 90):
        known = fid_of_samples(
            Inverter().sample,
            dataset,
            split="train",
            count=count,
            seed=3,
            extractor=averages,
            generator_digest="g",
        )
        whole = measure(Inverter(), dataset, count=count)
        quick = measure(Inverter(), dataset, count=count, full=False)
        assert whole.objective.value == quick.objective.value == known.value
        assert whole.objective.protocol == known.protocol
        names = ["fid", "kid", *NAMES, *["fid_infinity"] * (count == 90), "memorisation"]
        assert [figure.name for figure in whole.figures] == names
        assert quick.figures == (known,)
        for figure in whole.figures:
            assert figure.low <= figure.value <= figure.high
            assert figure.low < figure.high
            assert (figure.baseline is None) == (figure.name != "memorisation")
            assert figure.protocol.metric == figure.name
            assert figure.higher_is_better == (figure.name in NAMES)


def test_copies_beside_another_number_of_held_out_pictures_have_another_protocol(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    """The nearest 5 % of them decide what a copy is; the training pictures may be fewer."""
    folder = write_prepared(tmp_path / "d", blobs(30))
    described = json.loads((folder / "dataset.json").read_text())
    write_prepared(folder, blobs(80, seed=1), split="test")
    (folder / "dataset.json").write_text(json.dumps(described | {"splits": {"train": 30, "test": 80}}))
    protocols = [
        by_name(
            measure(Inverter(), PreparedDataset(folder), split="test", real_count=count), "memorisation", ""
        ).protocol
        for count in (30, 50, 80)
    ]
    assert [protocol.split for protocol in protocols] == [
        *("train beside test", "train beside 50 of test", "train beside 80 of test")
    ]
    assert {protocol.real_count for protocol in protocols} == {30}


class ClassConditional(Inverter):
    """Makes dark blobs of class 0 and bright ones of class 1, in turns."""

    conditional = True

    def labels(self, n: int, seed: int) -> torch.Tensor:
        return torch.arange(n) % 2

    def sample(self, n: int, seed: int) -> torch.Tensor:
        made = super().sample(n, seed)
        return torch.where(self.labels(n, seed)[:, None, None, None] == 1, 255 - made, made)


def test_class_conditional_generators_have_a_fid_of_each_class(
    measure: Callable[..., Assessment], tmp_path: Path, averages: Extractor
) -> None:
    dataset = two_domains(tmp_path / "d", "labelled")
    found = measure(ClassConditional(), dataset, count=50, real_count=46)
    of_class = [figure for figure in found.figures if figure.name == "fid_class"]
    assert [figure.protocol.direction for figure in of_class] == ["0", "1"]
    chosen = random_subset(50, 46)
    labels, real = dataset.labels("train")[chosen], dataset.pixels("train")[chosen]
    made, classes = ClassConditional().sample(50, 3), ClassConditional().labels(50, 3)
    for index, figure in enumerate(of_class):
        moments = [Moments(32), Moments(32)]
        of_index = torch.from_numpy(real[labels == index]), made[classes == index]
        for side, pictures in zip(moments, of_index, strict=True):
            side.update(averages(pictures))
        assert figure.value == pytest.approx(frechet_distance(*moments), rel=1e-5)
        assert (figure.protocol.real_count, figure.protocol.fake_count) == (moments[0].n, 25)
        assert figure.low < figure.value < figure.high
    assert "fid_class" not in found.findings.omitted


def test_figures_that_cannot_be_measured_have_a_reason(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    labelled, plain = two_domains(tmp_path / "l", "labelled"), prepared(tmp_path / "p", blobs(8))
    assert measure(Inverter(), labelled).findings.omitted["fid_class"] == "the generator is not class-conditional"
    few = measure(Inverter(), plain, count=4)
    assert few.findings.omitted["fid_class"] == few.findings.omitted["class_training"] == "the data has no classes"
    assert "at least 74 generated pictures for 32 features, and there are 4" in few.findings.omitted["fid_infinity"]
    assert {few.findings.omitted[name] for name in NAMES} == {
        "it needs at least 6 pictures on each side, and there are 4 real and 4 generated ones"
    }
    assert "2,048 features" in few.findings.omitted["inception_score"]
    assert [figure.name for figure in few.figures] == ["fid", "kid"]


def test_paired_data_has_all_metrics_with_baselines(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    pixels = blobs(N)
    dataset = prepared(tmp_path / "d", pixels, conditions=255 - pixels)
    found = measure(Inverter(((None, None),)), dataset)
    assert [figure.name for figure in found.figures] == ["fid", "kid", *NAMES, "l1", "psnr", "ssim"]
    assert {figure.protocol.direction for figure in found.figures} == {"condition -> image"}
    assert found.findings.omitted["class_agreement"] == "translations of pairs have no class of their own"
    fid, kid, precision, recall, density, coverage, l1, psnr, ssim = found.figures
    assert found.objective == fid
    assert fid.value < 1e-6 < 0.1 < fid.baseline
    assert kid.value < kid.baseline
    assert (precision.value, recall.value, coverage.value) == (1, 1, 1)
    assert all(figure.value > figure.baseline for figure in (precision, recall, density, coverage))
    assert (l1.value, psnr.value, ssim.value) == (0, 100, 1)
    expected = np.abs(255.0 - 2 * pixels.astype(float)).mean() / 255
    assert l1.baseline == pytest.approx(expected)
    assert psnr.baseline < 20
    assert ssim.baseline < 1
    assert [f.name for f in found.figures if f.higher_is_better] == [*NAMES, "psnr", "ssim"]
    assert measure(Inverter(((None, None),)), dataset, full=False).figures[0].value == fid.value


def test_a_subset_of_pairs_keeps_each_picture_with_its_target(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    pixels = blobs(N)
    dataset = prepared(tmp_path / "d", pixels, conditions=255 - pixels)
    found = measure(Inverter(((None, None),)), dataset, count=25, real_count=1000)
    l1 = by_name(found, "l1", "condition -> image")
    assert (l1.value, l1.protocol.fake_count) == (0, 25)
    assert (found.objective.protocol.real_count, found.objective.protocol.fake_count) == (N, 25)


def test_colourisation_is_compared_with_the_grey_input(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), dtype=np.uint8)
    dataset = prepared(tmp_path / "d", pixels, conditions=lightness(pixels), derived="greyscale")
    red = Inverter(((None, None),), lambda images: torch.cat([images, 0 * images, 0 * images], dim=1))
    found = measure(red, dataset)
    colourful = by_name(found, "colourfulness", "condition -> image")
    of_real = by_name(found, "colourfulness_of_real", "")
    gap = by_name(found, "colourfulness_gap", "condition -> image")
    assert min(colourful.value, of_real.value) > 20
    assert colourful.baseline is None, "more colour is not better"
    assert gap.baseline == pytest.approx(of_real.value), "the grey input has no colour at all"
    assert abs(colourful.value - of_real.value) <= gap.value
    assert by_name(found, "l1", "condition -> image").baseline < by_name(found, "l1", "condition -> image").value


def test_two_domains_have_figures_per_direction_and_their_mean_comes_first(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    subject = Inverter(((0, 1), (1, 0)))
    found = measure(subject, two_domains(tmp_path / "d", "unpaired"))
    mean = "mean of 2 directions"
    names = ("fid", "kid", *NAMES, "cycle")
    assert [(figure.name, figure.protocol.direction) for figure in found.figures] == [
        *((name, mean) for name in names),
        *((name, way) for name in names for way in ("0 -> 1", "1 -> 0")),
        *((name, "") for name in ("class_agreement", "class_training", "class_agreement_of_real")),
    ]
    for name in ("class_agreement", "class_training", "class_agreement_of_real"):
        agreed = by_name(found, name, "")
        assert (agreed.value, agreed.baseline) == (1, 0.5), "inverted pictures are those of the other domain"
        assert agreed.protocol.real_count == N + 10
    seen, unseen = (
        by_name(found, name, "").protocol.extractor for name in ("class_agreement_of_real", "class_training")
    )
    assert unseen != seen, "its classifiers have not seen the translations of a picture"
    assert found.objective.protocol.direction == mean
    for name in names:
        there, back = by_name(found, name, "0 -> 1"), by_name(found, name, "1 -> 0")
        whole = by_name(found, name, mean)
        assert whole.value == pytest.approx((there.value + back.value) / 2)
        assert whole.protocol.fake_count == there.protocol.fake_count + back.protocol.fake_count == N + 10
        assert whole.low <= whole.value <= whole.high or name == "kid"
    assert found.objective.value < found.objective.baseline
    assert by_name(found, "cycle", mean).value == 0
    # Two batches in one direction, each followed by its translation back; its closest pairs; then the other direction.
    assert subject.asked == [1, 0, 1, 0, *[1] * 25, 0, 1, 0, 1]
    pairs = found.findings.pairs
    assert pairs is not None
    assert torch.equal(pairs.fakes[pairs.distances == 0], pairs.reals[pairs.distances == 0])
    assert len(pairs.fakes) == 25
    assert "translations follow their input" in found.findings.omitted["memorisation"]


def test_a_translation_without_an_inverse_has_a_cycle_error(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    found = measure(Inverter(((0, 1), (1, 0)), lambda images: images // 2), two_domains(tmp_path / "d", "unpaired"))
    cycle = by_name(found, "cycle", "1 -> 0")
    assert cycle.low < cycle.value < cycle.high
    assert cycle.value > 0.3


def test_labelled_domains_have_a_classifier_accuracy(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    dataset = two_domains(tmp_path / "d", "domains")
    found = measure(Inverter(((0, 1), (1, 0))), dataset)
    right = by_name(found, "accuracy", "mean of 2 directions")
    assert (right.value, right.baseline, right.higher_is_better) == (1, 0, True)
    assert right.low > 0.8
    assert by_name(found, "accuracy_of_real", "").value == 1
    unchanged = measure(Inverter(((0, 1), (1, 0)), lambda images: images), dataset)
    assert by_name(unchanged, "accuracy", "0 -> 1").value == 0
    for name in ("class_agreement", "class_training"):
        assert by_name(unchanged, name, "").value == 0, "each picture still shows the domain that it came from"
    assert unchanged.objective.value == pytest.approx(unchanged.objective.baseline)


def test_an_attribute_has_a_direction_on_and_a_direction_off(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    labels = np.stack([np.arange(N) % 2, np.arange(N) // 2 % 2], axis=1)
    pixels = blobs(N)
    pixels[labels[:, 0] == 1] = 255 - pixels[labels[:, 0] == 1]
    dataset, directions = prepared(tmp_path / "d", pixels, labels), ((None, 0), (None, 1))
    found = measure(Inverter(directions), dataset, full=False)
    assert [figure.protocol.direction for figure in found.figures] == [
        "mean of 4 directions",
        "without attribute 0 -> attribute 0",
        "attribute 0 -> without attribute 0",
        "without attribute 1 -> attribute 1",
        "attribute 1 -> without attribute 1",
    ]
    unchanged = measure(Inverter(directions, lambda images: images), dataset, full=False)
    assert all(found.figures[way].value < 0.2 * unchanged.figures[way].value for way in (1, 2))


def test_accuracy_counts_pictures_with_or_without_the_attribute(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    labels = np.stack([np.arange(N) % 2], axis=1)
    pixels = blobs(N)
    pixels[labels[:, 0] == 1] = 255 - pixels[labels[:, 0] == 1]
    dataset, directions = prepared(tmp_path / "d", pixels, labels), ((None, 0),)
    ways = ("without attribute 0 -> attribute 0", "attribute 0 -> without attribute 0")
    inverted, unchanged = (
        measure(Inverter(directions), dataset),
        measure(Inverter(directions, lambda images: images), dataset),
    )
    assert [by_name(inverted, "accuracy", way).value for way in ways] == [1, 1]
    assert [by_name(unchanged, "accuracy", way).value for way in ways] == [0, 0]
    assert by_name(inverted, "accuracy_of_real", "").value == 1
    assert "several attributes" in inverted.findings.omitted["class_training"]


def test_an_empty_domain_is_named(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    labels = np.array([0, 2] * 10)
    dataset = prepared(tmp_path / "d", blobs(20), labels, kind="domains")
    with pytest.raises(DataError, match=r"test train 1 has 0 pictures, .* at least 2\. Add pictures"):
        measure(Inverter(((0, 1), (1, 0))), dataset)


@pytest.mark.parametrize(("full", "times"), [(True, 2), (False, 0)])
def test_the_warning_about_few_pictures_is_logged_once_and_only_for_full_measurements(
    measure: Callable[..., Assessment], tmp_path: Path, caplog: pytest.LogCaptureFixture, full: bool, times: int
) -> None:
    with caplog.at_level(logging.WARNING):
        measure(Inverter(((0, 1), (1, 0))), two_domains(tmp_path / "d", "unpaired"), full=full)
    assert caplog.text.count("biased upwards") == times
