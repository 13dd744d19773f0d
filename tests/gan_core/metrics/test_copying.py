"""A generator that learnt its training pictures by heart is caught; a fresh one and one that makes new pictures are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import fisher_exact
from sklearn.datasets import load_digits
from torch import nn

from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.copying import copying, fisher_p_value, pairs_sheet
from gan_core.metrics.inception import Extractor
from gan_core.metrics.intervals import GROUPS, jackknife_groups
from gan_core.metrics.protocol import Figure
from tests.datasets import write_prepared

LEARNT = 64
COUNT = 200


class ByHeart:
    """A small network from a latent to a picture; trained, it gives each of its pictures for a random code."""

    translates, directions = False, ()

    def __init__(self, pictures: np.ndarray, steps: int) -> None:
        torch.manual_seed(0)
        self.codes = torch.randn(len(pictures), 16)
        self.network = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 64), nn.Sigmoid())
        target = torch.from_numpy(pictures).flatten(1).float() / 255
        optimiser = torch.optim.Adam(self.network.parameters(), 3e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            F.mse_loss(self.network(self.codes + 0.02 * torch.randn(self.codes.shape)), target).backward()
            optimiser.step()

    def sample(self, n: int, seed: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        chosen = self.codes[torch.randint(len(self.codes), (n,), generator=random)]
        with torch.no_grad():
            made = self.network(chosen + 0.02 * torch.randn(n, 16, generator=random))
        return (made * 255).round().to(torch.uint8).reshape(n, 1, 8, 8)

    translate = None


class NewPictures:
    """Real pictures that are not in the training data: what a perfect generator makes."""

    translates, directions, translate = False, (), None

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = torch.from_numpy(pictures)

    def sample(self, n: int, seed: int) -> torch.Tensor:
        return self.pictures[:n]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """1,797 real pictures, uint8 (N, 1, 8, 8)."""
    return (load_digits().images[:, None] * 15.9).astype(np.uint8)


@pytest.fixture
def measure(averages: Extractor, tmp_path: Path, digits: np.ndarray) -> Callable[..., Assessment]:
    def run(subject: object, **more: object) -> Assessment:
        dataset = PreparedDataset(write_prepared(tmp_path / "d", digits[:LEARNT]))
        return assess(
            subject,
            dataset,
            extractor=averages,
            cache_dir=tmp_path / "features",
            **{"split": "train", "count": COUNT, "real_count": LEARNT, "seed": 3, "generator_digest": "g", **more},
        )

    return run


def memorisation(assessment: Assessment) -> Figure:
    (figure,) = (figure for figure in assessment.figures if figure.name == "memorisation")
    return figure


def test_a_generator_that_learnt_64_pictures_by_heart_is_caught(
    measure: Callable[..., Assessment], digits: np.ndarray
) -> None:
    found = measure(ByHeart(digits[:LEARNT], 400))
    figure, copies = memorisation(found), found.findings.copying
    assert figure.value > 0.8
    assert figure.low > figure.baseline
    assert copies.p_value < 1e-6
    assert (copies.training_count, copies.training_total, copies.reference_count) == (LEARNT, LEARNT, LEARNT)
    assert copies.fake_quantiles["0.5"] < copies.reference_quantiles["0.05"]
    pairs = found.findings.pairs
    gap = (pairs.fakes.float() - pairs.reals.float()).abs().mean()
    assert gap < 8, "the sheet shows each copy beside its original"
    assert pairs_sheet(pairs).shape == (64, 1, 8, 8)


@pytest.mark.parametrize("kind", ["untrained", "new"])
def test_a_fresh_generator_is_not_caught(measure: Callable[..., Assessment], digits: np.ndarray, kind: str) -> None:
    subject = ByHeart(digits[:LEARNT], 0) if kind == "untrained" else NewPictures(digits[LEARNT:])
    found = measure(subject)
    figure = memorisation(found)
    assert figure.low <= figure.baseline
    assert figure.value < 0.2
    assert found.findings.copying.p_value > 0.05


def test_on_a_test_split_held_out_pictures_are_the_reference(
    averages: Extractor, tmp_path: Path, digits: np.ndarray
) -> None:
    folder = write_prepared(tmp_path / "d", digits[:LEARNT])
    other = write_prepared(tmp_path / "e", digits[500:600], split="test")
    for shard in other.glob("*.parquet"):
        shard.rename(folder / shard.name)
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"train": 64', '"train": 64, "test": 100'))
    values = {}
    for name, subject in {"caught": ByHeart(digits[:LEARNT], 400), "new": NewPictures(digits[LEARNT:])}.items():
        found = assess(
            subject,
            PreparedDataset(folder),
            split="test",
            count=COUNT,
            seed=3,
            extractor=averages,
            generator_digest="g",
            cache_dir=tmp_path / "features",
        )
        copies, values[name] = found.findings.copying, memorisation(found)
        assert (copies.reference, copies.training_count, copies.reference_count) == ("held-out pictures", LEARNT, 100)
        assert values[name].protocol.split == "train beside 100 of test"
    assert values["caught"].low > values["caught"].baseline
    assert values["new"].low <= values["new"].baseline


def test_score_and_jackknife_by_hand() -> None:
    rng = np.random.default_rng(0)
    fakes, reference = rng.random((1 + GROUPS, 50)), rng.random((1 + GROUPS, 40)) + 0.2
    found = copying(fakes, reference, held_out=True, training_count=10, training_total=20)
    second = np.sort(reference[0])[1]
    assert found.threshold == second, "2 of 40 pictures are 5 %"
    assert (found.estimate.value, found.expected) == ((fakes[0] <= second).mean(), 2 / 40)
    for group in range(GROUPS):
        kept = reference[1 + group, jackknife_groups(40) != group]
        near = fakes[1 + group, jackknife_groups(50) != group] <= np.sort(kept)[1]
        assert found.estimate.jackknife[group] == near.mean()


def test_equal_distances_are_on_the_same_side() -> None:
    """A data set of duplicates, and copies of them: 5 % of the reference are all of it."""
    found = copying(np.zeros((1, 50)), np.zeros((1, 50)), held_out=False, training_count=50, training_total=50)
    assert (found.estimate.value, found.expected, found.p_value) == (1, 1, 1)


@pytest.mark.parametrize("table", [(30, 100, 5, 100), (0, 20, 1, 20), (20, 20, 1, 400), (3, 600, 30, 600)])
def test_the_test_equals_scipys(table: tuple[int, int, int, int]) -> None:
    near, n, other, m = table
    expected = fisher_exact([[near, n - near], [other, m - other]], alternative="greater").pvalue
    assert fisher_p_value(near, n, other, m) == pytest.approx(expected, rel=1e-9)


def test_few_pictures_have_a_reason(measure: Callable[..., Assessment], digits: np.ndarray) -> None:
    found = measure(NewPictures(digits), count=19)
    assert "at least 20 generated" in found.findings.omitted["memorisation"]
    assert found.findings.copying is None
    one = measure(NewPictures(digits), count=2, real_count=2)
    assert len(one.findings.pairs.distances) == 2, "the closest pairs are shown all the same"
    with pytest.raises(SettingsError, match="20 pictures on each side"):
        copying(np.zeros((1, 50)), np.zeros((1, 19)), held_out=False, training_count=1, training_total=1)
