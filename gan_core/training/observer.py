"""The interface for callbacks during a training run."""

from pathlib import Path

from torch import Tensor

from gan_core.metrics.protocol import Figure


class Observer:
    """Callbacks of a training run; this base class ignores them.

    :meth:`checkpoint` and :meth:`wants_checkpoint` run on every rank, the others only on rank 0.
    """

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Called with a row of metrics."""

    def pictures(self, pictures: Tensor, step: int, columns: int) -> None:
        """Called with a grid of pictures, uint8 (n, C, H, W), ``columns`` per row; each time from the same inputs.

        The first is at step 0, before training.
        """

    def figure(self, figure: Figure, step: int) -> None:
        """Called with an FID of the averaged generator; the next row of metrics also has its value."""

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Called on every rank when a checkpoint is complete; ``path`` is None except on rank 0."""

    def wants_checkpoint(self, step: int) -> bool:
        """Called on every rank after each step that writes no checkpoint; True asks for one now, on every rank alike."""
        return False
