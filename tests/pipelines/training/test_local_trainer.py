"""What Ray Train does on one machine."""

import asyncio
import dataclasses

from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from pipelines.training.local_trainer import FixedOnThisMachine


def test_a_fixed_number_of_workers_starts_without_a_request_for_nodes() -> None:
    """A request would start an actor, and fail here, where no cluster runs."""
    policy = FixedOnThisMachine(ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}))
    decision = policy.make_decision_for_non_running_worker_group()
    assert isinstance(decision, ResizeDecision)
    assert dataclasses.asdict(decision) == {"num_workers": 2, "resources_per_worker": {"CPU": 1}}
    asyncio.run(policy.before_controller_shutdown())
