"""Notice that a host of the training group is about to be taken away, as Ray has it from a cloud or from ``ray drain-node``."""

import time

import ray.train

from gan_core.training.world import World

_SECONDS = 2.0


class Notice:
    """Asks Ray about every two seconds. All ranks must ask at the same steps, because each question is a barrier."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._world = World.current()
        self._last: tuple[int, float] | None = None
        """Step and time of the last question."""
        self._next = 0

    def is_new(self, step: int) -> bool:
        """Whether there is notice of a host that there was none of before; the same on every rank. Call it after each step."""
        if step < self._next:
            return False
        info = ray.train.get_preemption_info()
        self._next = step + self._world.broadcast(self._steps_until_next(step))
        nodes = set(info.preempted_node_ids) if info else set()
        new = nodes - self._known
        self._known |= nodes
        return bool(new)

    def _steps_until_next(self, step: int) -> int:
        now, last = time.monotonic(), self._last
        self._last = step, now
        if last is None or now <= last[1]:
            return 1
        return max(1, int((step - last[0]) / (now - last[1]) * _SECONDS))
