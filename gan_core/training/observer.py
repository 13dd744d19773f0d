"""Who is told how a training run goes."""

from pathlib import Path

from torch import Tensor

from gan_core.metrics.protocol import Figure


class Observer:
    """What a run tells the outside; this one keeps nothing. All but :meth:`checkpoint` are called on rank 0 alone."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """A row of metrics."""

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """A grid's pictures, the same ones each time: uint8 (n, C, H, W), ``columns`` in a row."""

    def figure(self, figure: Figure, step: int) -> None:
        """A FID of the averaged generator; the row of metrics that follows has its value, too."""

    def checkpoint(self, path: Path | None, step: int) -> None:
        """A checkpoint is whole. Called on every rank at the same steps; only rank 0 has a path."""
