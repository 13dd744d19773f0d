"""Ray Train on one machine, without the actors that serve only a cluster of several or Ray's own datasets.

Each actor is a Python process that takes one to three seconds of a core to start, before the workers start or while they do.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

_NOT_NEEDED = (
    DatasetsCallback,  # hands out shards of Ray's datasets; the workers read prepared shards by themselves
    PlacementGroupCleanerCallback,  # frees the resources of a controller that died; here the stage ends, which frees them
)


class FixedOnThisMachine(FixedScalingPolicy):
    """Ray's policy for a fixed number of workers, without its requests for more nodes: one machine gets none.

    Ray sends them to an actor that it starts for that, and the workers start only after the first answer.
    """

    def _send_resource_request(self) -> None:
        """Request nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Request nothing."""

    def _cancel_resource_request(self) -> None:
        """There is no request to cancel."""


class LocalTrainer(TorchTrainer):
    """Ray's trainer without these callbacks, and without requests for nodes if the number of workers is fixed."""

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        controller["callbacks"] = [each for each in controller["callbacks"] if not isinstance(each, _NOT_NEEDED)]
        if isinstance(fixed := controller["scaling_policy"], FixedScalingPolicy):
            controller["scaling_policy"] = FixedOnThisMachine(fixed.scaling_config)
        return super()._initialize_and_run_controller(**controller)  # type: ignore[misc]  # mypy sees the trainer of v1
