"""Ray Train on one machine, without the actors that serve only a cluster of several or Ray's own datasets.

Each actor is a Python process that takes one to two seconds of a core to start, at the time when the worker starts, too.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

_NOT_NEEDED = (
    DatasetsCallback,  # hands out shards of Ray's datasets; the workers read prepared shards by themselves
    PlacementGroupCleanerCallback,  # frees the resources of a controller that died; here the stage ends, which frees them
)


class LocalTrainer(TorchTrainer):
    """Ray's trainer without these callbacks."""

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        controller["callbacks"] = [each for each in controller["callbacks"] if not isinstance(each, _NOT_NEEDED)]
        return super()._initialize_and_run_controller(**controller)  # type: ignore[misc]  # mypy sees the trainer of v1
