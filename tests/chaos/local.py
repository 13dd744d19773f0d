"""Training without a cluster: Ray Train's local mode, in the stage's own process, for cases whose subject is not Ray.

A stage then takes seconds instead of a minute and its moments can be enumerated; all else of it is the real thing. Test-side
replacements of two functions; nothing in the program knows of this.
"""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

VARIABLE = "GANTRY_CHAOS_LOCAL"
"""Switches it on in other processes, and says how many cores the cluster that there is not has: threads of the trainer."""


def _no_cluster(module: ModuleType) -> None:
    @contextlib.contextmanager
    def cluster(*places: Any, **options: Any) -> Iterator[str]:
        yield "local"

    module.cluster = cluster  # type: ignore[attr-defined]


def _in_this_process(module: ModuleType) -> None:
    import ray
    import ray.train

    original = ray.train.ScalingConfig
    ray.cluster_resources = lambda: {"CPU": float(os.environ.get(VARIABLE, "1"))}
    # Asked for the address of the cluster, Ray would start one.
    ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="none")  # type: ignore[assignment]
    # Ray's local mode is asked for by no workers.
    ray.train.ScalingConfig = lambda num_workers, **options: original(num_workers=0)  # type: ignore[assignment,misc]
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


PATCHES = {"pipelines.runtime.cluster": _no_cluster, "pipelines.training.fit": _in_this_process}
"""What to replace in which module, once that is imported."""
