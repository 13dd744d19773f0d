"""Print the progress of a search."""

import math
import time
from typing import Any

from ray.tune import Callback

from pipelines.runtime.progress import format_duration, format_figure, say


class ProgressCallback(Callback):
    """Tune callback that prints a line per measurement, and the time left after each trial."""

    def __init__(self, trials: int, steps: int, objective: str = "fid") -> None:
        self._trials, self._steps = trials, steps
        self._objective = "FID" if objective == "fid" else objective
        self.setup()

    def setup(self, *_: Any, **__: Any) -> None:
        """Start the clock when a search begins or resumes; a resumed search has state of an earlier process."""
        self._started = time.monotonic()
        self._before: int | None = None

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print the objective of a trial."""
        measured = "diverged" if math.isnan(result["value"]) else f"{self._objective} {format_figure(result['value'])}"
        say("tune", f"trial {trial.trial_id.rsplit('_', 1)[-1]}: {measured} at step {result['step']}/{self._steps}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the number of finished trials and the time left."""
        done = len({one.trial_id for one in trials if one.status == "TERMINATED"} | {trial.trial_id})
        if self._before is None:
            self._before = done - 1
        left = (time.monotonic() - self._started) / (done - self._before) * (self._trials - done)
        say("tune", f"{done}/{self._trials} trials, about {format_duration(max(left, 0))} left")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print that a trial failed and is not tried again."""
        step = (trial.last_result or {}).get("step", 0)
        kept = f"its figure of step {step} is kept" if step else "the leaderboard lacks it"
        say(
            "tune", f"trial {trial.trial_id.rsplit('_', 1)[-1]} failed and is not tried again, {kept}: {_reason(trial)}"
        )

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print that a trial was lost and will go on, maybe on another host."""
        step = (trial.last_result or {}).get("step", 0) if trial.has_checkpoint() else 0
        begins = f"goes on from step {step}" if step else "begins again"
        say("tune", f"trial {trial.trial_id.rsplit('_', 1)[-1]} was lost and {begins}: {_reason(trial)}")


def _reason(trial: Any) -> str:
    """The last line of the error of ``trial``."""
    lines = str(trial.get_error() or "").strip().splitlines()
    return lines[-1] if lines else "its process ended"
