"""A process fits a single node, gets as many cores as the others leave, and is refused at once if it fits nowhere."""

import os

import pytest

from gan_core.errors import SettingsError
from pipelines.runtime import cluster
from pipelines.runtime.resources import Allocation, Node, allocate, usable_cpus


def nodes(*sizes):
    return [Node(name=f"h{number}", cpus=cpus, gpus=gpus) for number, (cpus, gpus) in enumerate(sizes, 1)]


@pytest.mark.parametrize(
    ("cluster", "workers", "expected"),
    [
        (nodes((2, 0)), (1, 1), (1, 2, 0)),
        (nodes((5, 0)), (2, 2), (2, 2, 0)),
        (nodes((2, 0)), (1, 4), (2, 1, 0)),
        (nodes((16, 2)), (2, 2), (2, 8, 1)),
        # By the cluster's total the only worker would get 4 cores, which no node has.
        (nodes((2, 0), (2, 0)), (1, 1), (1, 2, 0)),
        (nodes((0, 0), (2, 0), (2, 0)), (2, 2), (2, 2, 0)),
        (nodes((8, 0), (2, 0)), (3, 3), (3, 2, 0)),
        (nodes((64, 0), (8, 4)), (4, 4), (4, 2, 1)),
        (nodes((8, 4), (8, 2)), (1, 8), (6, 2, 1)),
    ],
)
def test_workers_get_equal_parts_of_single_nodes(cluster, workers, expected):
    processes, cpus, gpus = expected
    assert allocate(cluster, *workers, setting="train.num_workers", what="workers") == Allocation(
        processes=processes, cpus=cpus, gpus=gpus
    )


@pytest.mark.parametrize(
    ("cluster", "trials", "expected"),
    [
        (nodes((4, 0)), 2, (2, 2, 0)),
        (nodes((8, 1)), 2, (2, 4, 1 / 2)),
        (nodes((8, 3)), 2, (2, 4, 1)),
        (nodes((8, 4)), 2, (2, 4, 1)),
        (nodes((8, 1), (8, 1)), 3, (3, 4, 1 / 2)),
        (nodes((1, 0)), 4, (1, 1, 0)),
    ],
)
def test_trials_may_share_a_gpu_but_get_no_more_than_one(cluster, trials, expected):
    processes, cpus, gpus = expected
    found = allocate(cluster, 1, trials, setting="tune.concurrent", what="trials", share_gpus=True)
    assert found == Allocation(processes=processes, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("cluster", "share", "expected"),
    [
        (nodes((8, 1)), 0.5, (2, 4, 0.5)),
        (nodes((8, 1)), 0.25, (4, 2, 0.25)),
        (nodes((9, 1)), 0.3333, (3, 3, 0.3333)),
        (nodes((8, 1)), 0.6, (1, 8, 0.6)),
        (nodes((8, 4)), 0.5, (4, 2, 0.5)),
        (nodes((64, 0), (8, 1), (8, 1)), 0.5, (4, 4, 0.5)),
        (nodes((8, 1)), 1.0, (1, 8, 1.0)),
    ],
)
def test_trials_get_the_share_of_a_gpu_that_is_asked_for_on_single_nodes(cluster, share, expected):
    processes, cpus, gpus = expected
    found = allocate(
        cluster, 1, 4, setting="tune.concurrent", what="trials", share_gpus=True, gpu_share=share, gpu_share_setting="s"
    )
    assert found == Allocation(processes=processes, cpus=cpus, gpus=gpus)


def test_a_share_of_a_gpu_is_refused_where_there_is_none():
    with pytest.raises(
        SettingsError, match=r"tune.gpus_per_trial: .* 0.5 GPU\(s\), and the cluster has none \(h1: .*null"
    ):
        allocate(
            nodes((2, 0)),
            1,
            2,
            setting="tune.concurrent",
            what="trials",
            share_gpus=True,
            gpu_share=0.5,
            gpu_share_setting="tune.gpus_per_trial",
        )


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            nodes((2, 0)),
            r"train.num_workers: 3 workers need a CPU core each, and 2 of them fit .*h1: 2 CPU core\(s\), 0 GPU",
        ),
        (nodes((8, 2), (8, 0)), r"3 workers need a GPU and a CPU core each, and 2 of them fit .*CUDA_VISIBLE_DEVICES="),
        (nodes((0, 4)), r"and 0 of them fit"),
        ([], r"and 0 of them fit into the cluster \(no nodes\)"),
    ],
)
def test_what_fits_nowhere_is_refused_with_the_nodes(cluster, message):
    with pytest.raises(SettingsError, match=message):
        allocate(cluster, 3, 3, setting="train.num_workers", what="workers")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity of processes")
def test_a_local_cluster_has_the_cores_that_the_process_may_use(tmp_path, monkeypatch):
    import ray

    started = []
    monkeypatch.setattr(ray, "init", lambda **options: started.append(options["num_cpus"]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})  # as under Slurm, of a machine with more
    assert usable_cpus() == 1
    cluster._start_local(str(tmp_path), None, False)
    cluster._start_local(str(tmp_path), 2, False)
    assert started == [1, 2]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(10_000)})
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
