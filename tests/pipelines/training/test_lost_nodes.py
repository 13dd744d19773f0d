"""On a cluster, a lost node is no failure of the training, and no worker starts on a node that does not answer."""

import pickle
import socket
from types import SimpleNamespace

import pytest
import ray
from ray.train import ControllerError, FailureConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.scaling_policy import NoopDecision

from gan_core.errors import DataError
from pipelines.storage.journal import ReplacedError
from pipelines.storage.objects import StorageError
from pipelines.training import lost_nodes
from pipelines.training.lost_nodes import (
    ElasticOnUsableNodes,
    FailuresOfWorkers,
    FixedOnUsableNodes,
    Group,
    usable_nodes,
)

CRASH = WorkerGroupError("the workers died", {0: RuntimeError("connection reset")})


@pytest.fixture
def listening():
    """A port on which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent():
    """A port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def have(monkeypatch):
    """Let the cluster have these nodes, by name and port; those in ``leaving`` are about to be taken away."""

    def nodes(leaving=(), **ports: int) -> None:
        rows = [
            {"NodeID": name, "Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port}
            for name, port in ports.items()
        ]
        monkeypatch.setattr(ray, "nodes", lambda: rows)
        state = SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(leaving, 0))
        monkeypatch.setattr(lost_nodes, "_ray_state", lambda: state)

    return nodes


def test_usable_nodes_answer_and_are_not_about_to_be_taken_away(have, listening, silent):
    have(b=listening, c=silent, d=listening, leaving=["d"])
    assert usable_nodes() == {"b"}


def test_a_lost_node_is_not_counted_in_max_failures_and_a_crash_is(have, listening, silent):
    group = Group()
    group.remember({"b", "c"})
    policy = FailuresOfWorkers(FailureConfig(max_failures=1), group)
    have(b=listening, c=silent)
    assert [policy.make_decision(CRASH) for _ in range(3)] == [FailureDecision.RETRY] * 3
    have(b=listening, c=listening)
    assert [policy.make_decision(CRASH) for _ in range(2)] == [FailureDecision.RETRY, FailureDecision.RAISE]


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (DataError("there are no pictures here"), FailureDecision.RAISE),
        (ReplacedError("this host was cut off"), FailureDecision.RETRY),
        (StorageError("it cannot be reached"), FailureDecision.RETRY),
    ],
)
def test_an_error_that_would_come_again_ends_training_at_once(have, listening, silent, error, decision):
    group = Group()
    group.remember({"b", "c"})
    have(b=listening, c=silent)
    failures = {0: RuntimeError("connection reset"), 1: UserExceptionWithTraceback(error, "Traceback ...")}
    policy = FailuresOfWorkers(FailureConfig(max_failures=3), group)
    assert policy.make_decision(WorkerGroupError("the workers failed", failures)) is decision


@pytest.mark.parametrize("policy", [FixedOnUsableNodes, ElasticOnUsableNodes])
def test_a_node_that_was_lost_before_the_workers_started_excuses_no_crash(have, listening, silent, policy):
    group = Group()
    group.remember({"b", "c"})
    have(b=listening, c=silent)
    scaling = ScalingConfig(num_workers=(1, 2)) if policy is ElasticOnUsableNodes else ScalingConfig(num_workers=1)
    where = policy(scaling, group).on_controller_start_worker_group(scaling_config=scaling, num_workers=1)
    assert where == {"ray.io/node-id": "!in(c)"}, "Ray still takes this node for alive"
    failures = FailuresOfWorkers(FailureConfig(max_failures=0), group)
    assert failures.make_decision(CRASH) is FailureDecision.RAISE


def test_a_group_that_finds_no_room_for_long_says_so_once_each_time(monkeypatch, caplog):
    group, now = Group(), iter([0.0, 15.0, 30.0, 100.0, 115.0])
    monkeypatch.setattr(lost_nodes.time, "monotonic", lambda: next(now))
    policy, no_room = FailuresOfWorkers(FailureConfig(), group), ControllerError(WorkerGroupStartupTimeoutError(2))
    assert [policy.make_decision(no_room) for _ in range(3)] == [FailureDecision.RETRY] * 3
    assert caplog.text.count("no room for the workers") == 1
    group.run({"b"})
    policy.make_decision(no_room)
    assert caplog.text.count("no room for the workers") == 1, "a moment without room is usual"
    policy.make_decision(no_room)
    assert caplog.text.count("no room for the workers") == 2


def test_workers_start_anywhere_if_all_nodes_answer(have, listening):
    have(b=listening, c=listening)
    policy = FixedOnUsableNodes(ScalingConfig(num_workers=1), Group())
    assert policy.on_controller_start_worker_group(scaling_config=policy.scaling_config, num_workers=1) is None


def test_an_elastic_group_counts_only_usable_nodes(have, listening, silent, monkeypatch):
    reserved = {"b": {"CPU": 2.0}, "c": {"CPU": 2.0}}
    monkeypatch.setattr(
        "ray.train.v2._internal.execution.scaling_policy.ElasticScalingPolicy._get_reserved_resources",
        lambda self: reserved,
    )
    monkeypatch.setattr(ElasticOnUsableNodes, "_maybe_send_resource_request", lambda self: None)
    have(b=listening, c=silent)
    policy = ElasticOnUsableNodes(ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 2}), Group())
    assert policy.make_decision_for_non_running_worker_group().num_workers == 1
    have(b=silent, c=silent)
    reserved = dict(reserved)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision), "it waits for a node"


def test_the_policies_share_their_group_in_the_controllers_process():
    """Ray sends them there one by one."""
    group = Group()
    policies = FailuresOfWorkers(FailureConfig(), group), FixedOnUsableNodes(ScalingConfig(num_workers=1), group)
    there = [pickle.loads(pickle.dumps(policy)) for policy in policies]
    assert there[0]._group is there[1]._group
