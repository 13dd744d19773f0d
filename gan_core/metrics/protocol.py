"""What a figure was measured with. Figures with different protocols are never compared or plotted on one axis."""

from dataclasses import dataclass, fields
from typing import Any

from gan_core.config import as_dict
from gan_core.files import sha256_json


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything besides the generator that moves a figure. ``gan_core.config.build(Protocol, ...)`` reads one back."""

    metric: str
    extractor: str
    """Digest of the feature extractor: weights, layer, precision."""
    features: int
    precision: str
    """``fp32``, or ``bf16``, which is for a search's objective only."""
    resize: str
    real_count: int
    fake_count: int
    split: str
    """Split of the real pictures; empty when they have none."""
    dataset_digest: str
    """Digest of the real pictures."""

    @property
    def digest(self) -> str:
        """SHA-256 that two protocols share exactly when their figures may be compared."""
        return sha256_json(as_dict(self))

    @property
    def publishable(self) -> bool:
        """Whether a figure may leave the search: float32 only."""
        return self.precision == "fp32"

    @property
    def stamp(self) -> str:
        """The protocol in one line, for people, to stand beside the metric's name and value."""
        split = f" of {self.split}" if self.split else ""
        parts = [
            f"Inception-2015 features {self.features} {self.precision}",
            self.resize,
            f"{self.fake_count} against {self.real_count} real{split}",
            f"data {self.dataset_digest[:8]}",
            f"extractor {self.extractor[:8]}",
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the protocol's digest and stamp."""
        return as_dict(self) | {"protocol_digest": self.protocol.digest, "stamp": self.protocol.stamp}
