"""The measurement protocol of a figure. Figures with different protocols are never compared or plotted on one axis."""

from dataclasses import dataclass, fields
from typing import Any

from gan_core.config import as_dict
from gan_core.files import sha256_json

FEATURES = (64, 192, 768, 2048)
"""The Inception layers that pytorch-fid offers: after the first and the second pool, before and after the last three blocks."""


BASELINES = {
    "inception_score": "pictures of one class",
    "memorisation": "without copying",
    "class_agreement": "the most frequent class",
    "class_training": "the most frequent class",
    "class_agreement_of_real": "the most frequent class",
}
"""What the baseline of a figure measures. Of all other figures, it measures the untranslated source pictures."""


NEUTRAL = ("colourfulness", "colourfulness_of_real", "accuracy_of_real", "class_agreement_of_real")
"""Figures that describe pictures, or the classifier of another figure: neither higher nor lower is better."""


def better_is(figure: str, higher_is_better: bool) -> str:
    """Which values of the figure named ``figure`` are better: ``higher``, ``lower`` or ``neither``."""
    return "neither" if figure in NEUTRAL else "higher" if higher_is_better else "lower"


def baseline_name(figure: str) -> str:
    """What the baseline of the figure named ``figure`` measures."""
    return BASELINES.get(figure, "untranslated source")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything besides the generator that affects a figure. ``gan_core.config.build(Protocol, ...)`` reads one back."""

    metric: str
    extractor: str
    """Digest of the feature extractor (weights, layer, precision) or of the classifier; empty for metrics on pixels."""
    features: int
    precision: str
    """``fp32``; ``bf16`` for the objective of a search only; ``fp64`` for metrics on pixels."""
    resize: str
    real_count: int
    fake_count: int
    split: str
    """Split of the real pictures; empty when they have none."""
    dataset_digest: str
    """Digest of the real pictures."""
    direction: str = ""
    """Direction of a translation: ``A -> B``, or ``mean of 2 directions``; empty for pictures made from noise."""
    unreadable: int = 0
    """Number of unreadable pictures on both sides; ``real_count`` and ``fake_count`` exclude them."""

    @property
    def digest(self) -> str:
        """SHA-256 of the protocol; equal if and only if the figures are comparable."""
        # Fields added later are omitted while empty, so that older digests stay valid.
        later = ("direction", "unreadable")
        return sha256_json({name: value for name, value in as_dict(self).items() if name not in later or value})

    @property
    def publishable(self) -> bool:
        """Whether the figure may be published; False for bf16."""
        return self.precision != "bf16"

    @property
    def stamp(self) -> str:
        """One-line summary of the protocol for people, shown beside the metric's name and value."""
        split = f" of {self.split}" if self.split else ""
        features = [f"Inception-2015 features {self.features} {self.precision}", self.resize] if self.features else []
        parts = [
            *([self.direction] if self.direction else []),
            *features,
            f"{self.fake_count} against {self.real_count} real{split}",
            *([f"{self.unreadable} unreadable left out"] if self.unreadable else []),
            f"data {self.dataset_digest[:8]}",
            *([f"{'extractor' if self.features else 'classifier'} {self.extractor[:8]}"] if self.extractor else []),
        ]
        return ", ".join(parts) + ("" if self.publishable else ", NOT FOR PUBLICATION")

    def comparable(self, other: "Protocol") -> bool:
        """Whether figures with these two protocols may be compared."""
        return self == other

    def differences(self, other: "Protocol") -> list[str]:
        """Fields that differ, such as ``fake_count: 1000 against 5000``; empty when comparable."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name}: {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value with its protocol."""

    name: str
    value: float
    protocol: Protocol
    generator_digest: str
    """Digest of the generator, or of the pictures compared with the real ones."""
    seed: int | None = None
    """Seed of the generated pictures; None if no generator made them."""
    low: float | None = None
    """Lower end of the 95 % confidence interval over the sampling of pictures; None if not requested, or if there are too
    few pictures."""
    high: float | None = None
    """Upper end of the interval."""
    baseline: float | None = None
    """The same metric for the unchanged input of a translation, or what :data:`BASELINES` says; None if there is none. A
    useful generator is better than this."""
    higher_is_better: bool = False
    """See :func:`better_is`: some figures only describe."""
    jackknife: tuple[float, ...] = ()
    """The value without each group of pictures, for :func:`gan_core.metrics.difference.paired_difference`. Empty if the
    interval has another source, or there is none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the protocol's digest and stamp."""
        values = as_dict(self)
        if not self.jackknife:
            del values["jackknife"]
        return values | {"protocol_digest": self.protocol.digest, "stamp": self.protocol.stamp}
