"""What a figure was measured with. Figures with different protocols are never compared or plotted on one axis."""

from dataclasses import dataclass, fields
from typing import Any

from gan_core.config import as_dict
from gan_core.files import sha256_json

FEATURES = (64, 192, 768, 2048)
"""The Inception layers that pytorch-fid offers: after the first and the second pool, before and after the last three blocks."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything besides the generator that moves a figure. ``gan_core.config.build(Protocol, ...)`` reads one back."""

    metric: str
    extractor: str
    """Digest of the feature extractor (weights, layer, precision), or of the classifier that was asked; empty where pixels
    are compared."""
    features: int
    precision: str
    """``fp32``, or ``bf16``, which is for a search's objective only; ``fp64`` where pixels are compared."""
    resize: str
    real_count: int
    fake_count: int
    split: str
    """Split of the real pictures; empty when they have none."""
    dataset_digest: str
    """Digest of the real pictures."""
    direction: str = ""
    """Of a translation: ``A -> B``, or ``mean of 2 directions``; empty where pictures are made from noise."""
    unreadable: int = 0
    """Pictures of either side that could not be read; ``real_count`` and ``fake_count`` are without them."""

    @property
    def digest(self) -> str:
        """SHA-256 that two protocols share exactly when their figures may be compared."""
        # A field that came later and says nothing is left out: digests written before it stay what they are.
        later = ("direction", "unreadable")
        return sha256_json({name: value for name, value in as_dict(self).items() if name not in later or value})

    @property
    def publishable(self) -> bool:
        """Whether a figure may leave the search: not in bf16."""
        return self.precision != "bf16"

    @property
    def stamp(self) -> str:
        """The protocol in one line, for people, to stand beside the metric's name and value."""
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
        """Whether figures of both may be compared."""
        return self == other

    def differences(self, other: "Protocol") -> list[str]:
        """What keeps them apart, such as ``fake_count: 1000 against 5000``; empty when comparable."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [f"{name}: {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value with its protocol."""

    name: str
    value: float
    protocol: Protocol
    generator_digest: str
    """Digest of what was measured: a generator, or the pictures compared with the real ones."""
    seed: int | None = None
    """Seed of the generated pictures; None where nothing was drawn."""
    low: float | None = None
    """Lower end of the 95 % interval: other pictures, as many, would give a figure in it 19 times in 20. None where it was
    not asked for, or there are too few pictures to say."""
    high: float | None = None
    """Its upper end."""
    baseline: float | None = None
    """The same figure of the trivial answer, the condition itself unchanged; None where pictures are made from noise. A
    figure is only good where it is better than this."""
    higher_is_better: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the protocol's digest and stamp."""
        return as_dict(self) | {"protocol_digest": self.protocol.digest, "stamp": self.protocol.stamp}
