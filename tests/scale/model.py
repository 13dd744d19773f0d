"""The time of a training step with many workers, from measured costs and an assumed network. Nothing here is measured."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one worker does in a step."""

    step_seconds: float
    """Of a worker alone, without communication and with its pictures in memory."""
    gradient_bytes: tuple[int, ...]
    """Bytes of each average of gradients in a step."""
    small_collectives: int
    """Number of other collectives in a step, such as the statistics of batch norm."""
    batch: int
    """Pictures of a worker in a step."""
    picture_bytes: int
    """Bytes of a prepared picture."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """An assumed network between workers, one worker a host."""

    latency: float
    """Seconds from one process to another, with what gloo adds."""
    rate: float
    """Bytes per second into a host."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The modelled parts of a step, in seconds."""

    compute: float
    gradients: float
    small: float
    fetch: float
    """To fetch row groups for streamed data that fits into no cache; it runs beside the rest."""

    @property
    def efficiency(self) -> float:
        """Share of the step in which a worker computes, if the data is at hand."""
        return self.compute / (self.compute + self.gradients + self.small)

    @property
    def streamed(self) -> float:
        """The same for data that every host streams from the storage."""
        return self.compute / max(self.compute + self.gradients + self.small, self.fetch)

    @property
    def limit(self) -> str:
        """What takes most of the step."""
        parts = {
            "compute": self.compute,
            "gradients": self.gradients,
            "small collectives": self.small,
            "fetching": self.fetch,
        }
        return max(parts, key=parts.__getitem__)


def ring_seconds(size: int, workers: int, network: Network) -> float:
    """Seconds of an all-reduce of ``size`` bytes in a ring, as gloo does: 2 (n - 1) messages of size / n, one after another."""
    return 2 * (workers - 1) * (network.latency + size / workers / network.rate)


def model_step(costs: Costs, network: Network, workers: int, *, speed: float = 1.0) -> Step:
    """Model a step of ``workers`` that each keep their batch, and compute ``speed`` times as fast as the measured one.

    Every host reads the row groups of all pictures of the global batch (decision 115), because its own rows lie in all of them.
    """
    return Step(
        compute=costs.step_seconds / speed,
        gradients=sum(ring_seconds(size, workers, network) for size in costs.gradient_bytes),
        small=costs.small_collectives * ring_seconds(0, workers, network),
        fetch=workers * costs.batch * costs.picture_bytes / network.rate,
    )
