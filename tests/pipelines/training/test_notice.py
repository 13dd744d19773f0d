"""Workers ask for notices of preemption at the same steps, about every two seconds."""

import pytest
import ray.train
from ray.train.v2.api.preemption import PreemptionInfo

from pipelines.training import notice
from pipelines.training.notice import Notice


@pytest.fixture
def asked(monkeypatch):
    """Steps are of 0.1 s. ``asked.nodes`` are those with notice; ``asked.steps`` is filled with the steps of questions."""

    class Asked:
        nodes: tuple[str, ...] = ()
        step = 0

        def run(self, until: int) -> list[int]:
            """Make steps; returns those with a new notice."""
            new = []
            while self.step < until:
                self.step += 1
                if self.notice.is_new(self.step):
                    new.append(self.step)
            return new

    asked = Asked()

    def info() -> PreemptionInfo | None:
        asked.steps.append(asked.step)
        ranks = {node: [0] for node in asked.nodes}
        return PreemptionInfo(deadline_ms=None, preempted_node_to_ranks=ranks) if ranks else None

    monkeypatch.setattr(notice.time, "monotonic", lambda: asked.step / 10)
    monkeypatch.setattr(ray.train, "get_preemption_info", info)
    asked.notice, asked.steps = Notice(), []
    return asked


@pytest.mark.parametrize("resumed", [0, 5000])
def test_it_asks_at_the_first_two_steps_and_then_every_two_seconds(asked, resumed):
    asked.step = resumed
    asked.run(until=resumed + 65)
    assert asked.steps == [resumed + step for step in (1, 2, 22, 42, 62)]


def test_each_host_is_new_once(asked):
    assert asked.run(until=30) == []
    asked.nodes = ("b",)
    assert asked.run(until=100) == [42]
    asked.nodes = ("b", "c")
    assert asked.run(until=200) == [102]
