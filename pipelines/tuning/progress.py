"""Print the progress of a search."""

import time
from typing import Any

from ray.tune import Callback

from pipelines.runtime.progress import duration, say


class ProgressCallback(Callback):
    """Tune callback that prints a line per measurement, and the time left after each trial."""

    def __init__(self, trials: int, steps: int) -> None:
        self._trials, self._steps = trials, steps
        self.setup()

    def setup(self, *_: Any, **__: Any) -> None:
        """Start the clock when a search begins or resumes; a resumed search has state of an earlier process."""
        self._started = time.monotonic()
        self._before: int | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print the FID of a trial."""
        say(
            "tune",
            f"trial {trial.trial_id.rsplit('_', 1)[-1]}: FID {result['fid']:.1f} at step {result['step']}/{self._steps}",
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the number of finished trials and the time left."""
        done = len({one.trial_id for one in trials if one.status == "TERMINATED"} | {trial.trial_id})
        if self._before is None:
            self._before = done - 1
        left = (time.monotonic() - self._started) / (done - self._before) * (self._trials - done)
        say("tune", f"{done}/{self._trials} trials, about {duration(max(left, 0))} left")
