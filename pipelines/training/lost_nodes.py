"""What Ray Train does when a node of a cluster is lost or about to be: those losses are no failures of the training.

Ray Train counts the death of a node without notice as a failure of the workers, and plans with nodes that are dead but not yet
known to be, or about to go. The policies here replace its own on a cluster of several machines.
"""

import dataclasses
import logging
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingPolicy,
)
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from gan_core.errors import GantryError
from pipelines.storage.journal import ReplacedError
from pipelines.storage.objects import StorageError

LOG = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0
_WAIT_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0
"""How long there may be no room for the workers before it is said: a moment without is usual when a group starts."""
_NODE_ID = "ray.io/node-id"
"""Label that Ray gives each node."""
_COORDINATOR = "AutoscalingCoordinator"
_COORDINATOR_SECONDS = 10.0
RESIZE_SECONDS = 30.0
"""How often an elastic group looks for nodes that have joined."""


def usable_nodes() -> set[str]:
    """Ids of the nodes of the cluster that answer and are not about to be taken away.

    Ray notices the death of a host only when its health checks have failed several times; a connection to the node's manager
    that is refused, or not answered within two seconds, says it at once.
    """
    leaving = _ray_state().get_draining_nodes() or {}
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    if not nodes:
        return set()
    with ThreadPoolExecutor(min(64, len(nodes))) as pool:
        answers = pool.map(_answers, nodes)
        return {node["NodeID"] for node, answers_now in zip(nodes, answers, strict=True) if answers_now}


def _ray_state() -> Any:
    return ray._private.state.state


def _answers(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


class Group:
    """The nodes on which the workers run, as the scaling policy has seen them."""

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        self._waits_since: float | None = None
        self._says_so = False

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        # Ray pickles the two policies apart, and they must share this in the controller's process.
        return _group_of_this_process, ()

    def remember(self, nodes: Iterable[str]) -> None:
        """Note where the workers may run."""
        self._nodes = set(nodes)

    def wait(self) -> None:
        """Note that there is no room for the workers; say so once if it lasts. Ray itself tries again without a word."""
        now = time.monotonic()
        self._waits_since = self._waits_since or now
        if not self._says_so and now - self._waits_since >= _PATIENCE_SECONDS:
            self._says_so = True
            LOG.warning(
                "The cluster has no room for the workers now. Training waits until a host joins or other work ends (see "
                "ray status), and goes on from its last checkpoint."
            )

    def run(self, nodes: Iterable[str]) -> None:
        """Note where the workers run."""
        self._waits_since, self._says_so = None, False
        self.remember(nodes)

    def lost(self) -> set[str]:
        """Ids of those nodes that are gone, or are going."""
        return self._nodes - usable_nodes()


@cache
def _group_of_this_process() -> Group:
    return Group()


class FailuresOfWorkers(DefaultFailurePolicy):
    """Ray's policy, except that losing a node is never counted, and that an error of Gantry ends training at once."""

    def __init__(self, failure_config: Any, group: Group) -> None:
        super().__init__(failure_config)
        self._group = group

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Decide whether the workers are started again."""
        if isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, WorkerGroupStartupTimeoutError
        ):
            self._group.wait()
        if isinstance(training_failed_error, WorkerGroupError):
            if any(map(_is_final, training_failed_error.worker_failures.values())):
                return FailureDecision.RAISE
            if lost := self._group.lost():
                LOG.warning(
                    "Training goes on without lost node(s) %s: %s", ", ".join(sorted(lost)), training_failed_error
                )
                return FailureDecision.RETRY
        return super().make_decision(training_failed_error)


def _is_final(failure: BaseException) -> bool:
    """Whether a worker would fail in the same way again. One that was replaced or has lost the storage might not."""
    error = getattr(failure, "_base_exc", failure)  # Ray wraps what a worker raises
    return isinstance(error, GantryError) and not isinstance(error, ReplacedError | StorageError)


class UsableNodes(ScalingPolicy):
    """What both policies below have in common: no worker starts on a node that is dead or about to go."""

    _group: Group

    def on_controller_start_worker_group(self, **_: Any) -> Any:
        """Keep the workers off nodes that Ray still takes for alive, and that are not."""
        usable = usable_nodes()
        self._group.remember(usable)
        unusable = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - usable
        return {_NODE_ID: f"!in({','.join(sorted(unusable))})"} if unusable else None

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Note where the workers run; the rest is Ray's."""
        self._group.run(worker.metadata.node_id for worker in worker_group_state.workers)
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)  # type: ignore[safe-super]


class FixedOnUsableNodes(UsableNodes, FixedScalingPolicy):
    """Ray's policy for a fixed number of workers, on usable nodes."""

    def __init__(self, scaling_config: Any, group: Group) -> None:
        super().__init__(scaling_config)
        self._group = group


class ElasticOnUsableNodes(UsableNodes, ElasticScalingPolicy):
    """Ray's policy for a varying number of workers, on usable nodes."""

    def __init__(self, scaling_config: Any, group: Group) -> None:
        super().__init__(dataclasses.replace(scaling_config, elastic_resize_monitor_interval_s=RESIZE_SECONDS))
        self._group = group
        self._reserved: Any = None
        self._reserved_usable: Any = None

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start as many workers as there is room for, or wait."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            self._group.wait()
            time.sleep(_WAIT_SECONDS)  # Ray's controller asks again at once
        return decision

    def _get_reserved_resources(self) -> Any:
        reserved = super()._get_reserved_resources()
        if reserved is not self._reserved:  # Ray asks again only after a second
            usable = usable_nodes() if reserved else ()
            self._reserved = reserved
            self._reserved_usable = reserved and {node: share for node, share in reserved.items() if node in usable}
        return self._reserved_usable


class ClusterTrainer(TorchTrainer):
    """Ray's trainer with these policies."""

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        config: Any = self.scaling_config
        _remove_lost_coordinator()
        group = Group()
        policy = ElasticOnUsableNodes if config.elasticity_enabled else FixedOnUsableNodes
        controller["scaling_policy"] = policy(config, group)
        controller["failure_policy"] = FailuresOfWorkers(self.run_config.failure_config, group)
        return super()._initialize_and_run_controller(**controller)  # type: ignore[misc]  # mypy sees the trainer of v1


def _remove_lost_coordinator() -> None:
    """End Ray's actor that plans the resources if it cannot answer: it is bound to the node of the first driver.

    With that node gone it would wait for it without end, and an elastic group would never start.
    """
    try:
        actor = ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
    except ValueError:  # there is none yet
        return
    try:
        ray.get(actor.get_reserved_resources.remote("gantry"), timeout=_COORDINATOR_SECONDS)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        LOG.warning("Ray's %s is on a node that is gone; a new one is started.", _COORDINATOR)
        ray.kill(actor)
        deadline = time.monotonic() + _COORDINATOR_SECONDS
        while time.monotonic() < deadline:
            try:
                ray.get_actor(_COORDINATOR, namespace=_COORDINATOR)
            except ValueError:
                return
            time.sleep(0.2)
