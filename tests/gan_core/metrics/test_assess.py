"""An assessment measures what the data asks for, beside the trivial answer, and its objective is the first figure."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import DataError
from gan_core.images.colour import lightness
from gan_core.metrics import domains
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.inception import Extractor
from gan_core.metrics.protocol import Figure
from tests.datasets import blobs, write_prepared

N = 40
Directions = tuple[tuple[int | None, int | None], ...]


class Inverter:
    """Makes noise, and translates by a function of a picture."""

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
    monkeypatch.setattr(domains, "STEPS", (15, 15))

    def run(subject: Inverter, dataset: PreparedDataset, **more: object) -> Assessment:
        chosen = {"split": "train", "count": N, "seed": 3, "generator_digest": "g", **more}
        return assess(subject, dataset, extractor=averages, cache_dir=tmp_path / "features", **chosen)

    return run


def prepared(folder: Path, *arguments: object, **more: object) -> PreparedDataset:
    return PreparedDataset(write_prepared(folder, *arguments, **more))


def two_domains(folder: Path, kind: str) -> PreparedDataset:
    """Dark blobs, and what an inverter makes of them."""
    labels, pixels = np.arange(N + 10) % 2, blobs(N + 10)
    pixels[labels == 1] = 255 - pixels[labels == 1]
    return prepared(folder, pixels, labels, kind=kind)


def by_name(assessment: Assessment, name: str, direction: str) -> Figure:
    (found,) = (f for f in assessment.figures if (f.name, f.protocol.direction) == (name, direction))
    return found


def test_from_noise_the_fid_is_what_it_was_to_the_bit(
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
        assert [figure.name for figure in whole.figures] == ["fid", "kid"]
        assert quick.figures == (known,)
        for figure in whole.figures:
            assert figure.low < figure.value < figure.high
            assert figure.baseline is None


def test_of_pairs_all_is_measured_and_the_trivial_answer_too(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    pixels = blobs(N)
    dataset = prepared(tmp_path / "d", pixels, conditions=255 - pixels)
    found = measure(Inverter(((None, None),)), dataset)
    assert [figure.name for figure in found.figures] == ["fid", "kid", "l1", "psnr", "ssim"]
    assert {figure.protocol.direction for figure in found.figures} == {"condition -> image"}
    fid, kid, l1, psnr, ssim = found.figures
    assert found.objective == fid
    assert fid.value < 1e-6 < 0.1 < fid.baseline
    assert kid.value < kid.baseline
    assert (l1.value, psnr.value, ssim.value) == (0, 100, 1)
    expected = np.abs(255.0 - 2 * pixels.astype(float)).mean() / 255
    assert l1.baseline == pytest.approx(expected)
    assert psnr.baseline < 20
    assert ssim.baseline < 1
    assert [figure.higher_is_better for figure in found.figures] == [False, False, False, True, True]
    assert measure(Inverter(((None, None),)), dataset, full=False).figures[0].value == fid.value


def test_of_part_of_the_pairs_each_is_compared_with_its_own(measure: Callable[..., Assessment], tmp_path: Path) -> None:
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
    assert gap.baseline == pytest.approx(of_real.value), "grey lacks all of it"
    assert abs(colourful.value - of_real.value) <= gap.value
    assert by_name(found, "l1", "condition -> image").baseline < by_name(found, "l1", "condition -> image").value


def test_between_two_domains_each_direction_is_measured_and_their_mean_leads(
    measure: Callable[..., Assessment], tmp_path: Path
) -> None:
    subject = Inverter(((0, 1), (1, 0)))
    found = measure(subject, two_domains(tmp_path / "d", "unpaired"))
    mean = "mean of 2 directions"
    names = ("fid", "kid", "cycle")
    assert [(figure.name, figure.protocol.direction) for figure in found.figures] == [
        *((name, mean) for name in names),
        *((name, way) for name in names for way in ("0 -> 1", "1 -> 0")),
    ]
    assert found.objective.protocol.direction == mean
    for name in names:
        there, back = by_name(found, name, "0 -> 1"), by_name(found, name, "1 -> 0")
        whole = by_name(found, name, mean)
        assert whole.value == pytest.approx((there.value + back.value) / 2)
        assert whole.protocol.fake_count == there.protocol.fake_count + back.protocol.fake_count == N + 10
        assert whole.low <= whole.value <= whole.high or name == "kid"
    assert found.objective.value < found.objective.baseline
    assert by_name(found, "cycle", mean).value == 0
    # Two batches there, each followed by its way back; then the other direction.
    assert subject.asked == [1, 0, 1, 0, 0, 1, 0, 1]


def test_what_does_not_come_back_has_an_error(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    found = measure(Inverter(((0, 1), (1, 0)), lambda images: images // 2), two_domains(tmp_path / "d", "unpaired"))
    cycle = by_name(found, "cycle", "1 -> 0")
    assert cycle.low < cycle.value < cycle.high
    assert cycle.value > 0.3


def test_domains_are_also_judged_by_a_classifier(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    dataset = two_domains(tmp_path / "d", "domains")
    found = measure(Inverter(((0, 1), (1, 0))), dataset)
    right = by_name(found, "accuracy", "mean of 2 directions")
    assert (right.value, right.baseline, right.higher_is_better) == (1, 0, True)
    assert right.low > 0.8
    assert by_name(found, "accuracy_of_real", "").value == 1
    unchanged = measure(Inverter(((0, 1), (1, 0)), lambda images: images), dataset)
    assert by_name(unchanged, "accuracy", "0 -> 1").value == 0
    assert unchanged.objective.value == pytest.approx(unchanged.objective.baseline)


def test_an_attribute_is_switched_on_in_pictures_that_lack_it_and_off_in_those_that_have_it(
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


def test_the_classifier_is_asked_for_the_attribute_or_for_its_lack(
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


def test_an_empty_domain_is_named(measure: Callable[..., Assessment], tmp_path: Path) -> None:
    labels = np.array([0, 2] * 10)
    dataset = prepared(tmp_path / "d", blobs(20), labels, kind="domains")
    with pytest.raises(DataError, match=r"test train 1 has 0 pictures, .* 2 or more. Add some"):
        measure(Inverter(((0, 1), (1, 0))), dataset)


@pytest.mark.parametrize(("full", "times"), [(True, 2), (False, 0)])
def test_the_warning_of_few_pictures_comes_once_and_never_for_what_is_measured_again_and_again(
    measure: Callable[..., Assessment], tmp_path: Path, caplog: pytest.LogCaptureFixture, full: bool, times: int
) -> None:
    with caplog.at_level(logging.WARNING):
        measure(Inverter(((0, 1), (1, 0))), two_domains(tmp_path / "d", "unpaired"), full=full)
    assert caplog.text.count("biased upwards") == times
