"""Print the progress of stages as plain lines, and format durations and figures."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.storage.lease import Holder


def say(stage: str, message: str) -> None:
    """Print one line, flushed at once. (DVC pipes the output of stages, where a bar that redraws itself would be noise.)"""
    print(f"[{stage}] {message}", flush=True)


def say_waiting(stage: str, holder: "Holder") -> None:
    """Print that a stage waits for the lease on its work, which ``holder`` had last."""
    say(stage, f"waiting: process {holder.process} on {holder.host} worked on this stage last; it may have ended")


def format_duration(seconds: float) -> str:
    """Format seconds: ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_figure(value: float) -> str:
    """Format a figure with two decimals, or four below 1: ``23.46``, ``0.0123``. Smaller ones, of a KID, keep two digits:
    ``0.00046``, ``4.6e-05``.
    """
    if 0 < abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
