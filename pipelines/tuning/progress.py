"""What a person sees of a running search."""

import time
from typing import Any

from ray.tune import Callback

from pipelines.progress import duration, say


class Narrator(Callback):
    """Prints a line a measurement and an estimate of what is left."""

    def __init__(self, trials: int, steps: int) -> None:
        self._trials, self._steps = trials, steps
        self._started = time.monotonic()
        self._done = 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was measured."""
        say(
            "tune",
            f"trial {trial.trial_id.rsplit('_', 1)[-1]}: FID {result['fid']:.1f} at step {result['step']}/{self._steps}",
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is over."""
        self._done += 1
        left = (time.monotonic() - self._started) / self._done * (self._trials - self._done)
        say("tune", f"{self._done}/{self._trials} trials, about {duration(max(left, 0))} left")
