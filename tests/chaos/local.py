"""Train without a Ray cluster: Ray Train's local mode in the stage's own process, for cases that do not test Ray.

A stage then takes seconds instead of a minute, and its moments can be enumerated; everything else is unchanged. This replaces
two functions from outside; the program has no hooks for it.
"""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

VARIABLE = "GANTRY_CHAOS_LOCAL"
"""Switches local mode on in other processes. Its value is the number of CPU cores, which sets the trainer's threads."""


def _no_cluster(module: ModuleType) -> None:
    @contextlib.contextmanager
    def ray_cluster(*places: Any, **options: Any) -> Iterator[str]:
        yield "local"

    module.ray_cluster = ray_cluster  # type: ignore[attr-defined]


def _in_this_process(module: ModuleType) -> None:
    import ray
    import ray.train

    original = ray.train.ScalingConfig
    ray.nodes = lambda: [
        {"Alive": True, "NodeManagerHostname": "here", "Resources": {"CPU": float(os.environ.get(VARIABLE, "1"))}}
    ]
    # Ray would start a cluster when it is asked for the address.
    ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="none")  # type: ignore[assignment]
    # With 0 workers, Ray Train uses its local mode.
    ray.train.ScalingConfig = lambda num_workers, **options: original(num_workers=0)  # type: ignore[assignment,misc]


PATCHES = {"pipelines.runtime.cluster": _no_cluster, "pipelines.training.fit": _in_this_process}
"""The patch for each module, applied when the module is imported."""
