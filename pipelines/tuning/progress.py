"""What a person sees of a running search."""

import time
from typing import Any

from ray.tune import Callback

from pipelines.runtime.progress import duration, say


class Narrator(Callback):
    """Prints a line a measurement and an estimate of what is left."""

    def __init__(self, trials: int, steps: int) -> None:
        self._trials, self._steps = trials, steps
        self.setup()

    def setup(self, *_: Any, **__: Any) -> None:
        """A search begins, or goes on after a kill: its clock and what was done before are of an earlier process."""
        self._started = time.monotonic()
        self._before: int | None = None

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
        done = len({one.trial_id for one in trials if one.status == "TERMINATED"} | {trial.trial_id})
        if self._before is None:
            self._before = done - 1
        left = (time.monotonic() - self._started) / (done - self._before) * (self._trials - done)
        say("tune", f"{done}/{self._trials} trials, about {duration(max(left, 0))} left")
