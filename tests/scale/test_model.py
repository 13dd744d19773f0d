"""The model of a step with many workers."""

import pytest

from tests.scale.model import Costs, Network, model_step, ring_seconds

NETWORK = Network(latency=1e-4, rate=1e9)
COSTS = Costs(step_seconds=0.1, gradient_bytes=(10**7, 10**7), small_collectives=10, batch=16, picture_bytes=8000)


def test_a_large_all_reduce_sends_twice_its_bytes_and_a_small_one_costs_latency() -> None:
    assert ring_seconds(10**9, 1000, Network(latency=0, rate=1e9)) == pytest.approx(2, rel=0.01)
    assert ring_seconds(0, 11, NETWORK) == pytest.approx(20 * 1e-4)
    assert ring_seconds(10**9, 1, NETWORK) == 0


def test_efficiency_falls_with_workers_and_with_their_speed() -> None:
    steps = [model_step(COSTS, NETWORK, workers) for workers in (1, 8, 64, 512)]
    assert steps[0].efficiency == 1
    assert [step.efficiency for step in steps] == sorted((step.efficiency for step in steps), reverse=True)
    assert model_step(COSTS, NETWORK, 8, speed=10).efficiency < steps[1].efficiency


def test_what_takes_most_of_the_step_is_named() -> None:
    assert model_step(COSTS, NETWORK, 2).limit == "compute"
    assert model_step(COSTS, NETWORK, 512).limit == "small collectives"
    assert model_step(COSTS, Network(latency=0, rate=1e8), 512).limit == "fetching"
    assert model_step(COSTS, Network(latency=0, rate=1e8), 512).streamed < 1
