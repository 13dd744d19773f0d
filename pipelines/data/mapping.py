"""Map a function over items in this process or in Ray tasks, with the same results in the same order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from gan_core.errors import DataError

_AHEAD = 8
"""Results that wait for an earlier one, for each task in flight."""

S = TypeVar("S")
R = TypeVar("R")


class Mapper(Protocol):
    """``mapper(function, items)`` yields ``function(item)`` for each item, in order."""

    def __call__(self, function: Callable[[S], R], items: Sequence[S], /) -> Iterator[R]:
        """Yield the results in order."""
        ...


def map_sequentially(function: Callable[[S], R], items: Sequence[S], /) -> Iterator[R]:
    """Call the function in this process, one item at a time."""
    return (function(item) for item in items)


def map_with_ray(workers: int, connect: Callable[[], object] | None = None) -> Mapper:
    """A mapper that runs up to ``workers`` Ray tasks in parallel, each on one CPU of the connected cluster.

    A single item runs in this process. For more items, ``connect`` connects to a cluster if there is no connection yet:
    starting a cluster takes longer than converting a small dataset.

    If the cluster has at most ``workers`` CPUs, more tasks are submitted early, so that no CPU waits for its next task. If
    the cluster grows meanwhile, these tasks run too, and exceed ``workers``.

    At most :data:`_AHEAD` times as many results as tasks in flight wait for an earlier one that takes long; then no task is
    submitted until it is done. The caller may take its time likewise.

    Every node must reach the files of all items: by an absolute path on a disk that all share, or through a storage.

    Raises:
        DataError: no cluster is connected, and ``connect`` is None.
    """

    def run(function: Callable[[S], R], items: Sequence[S], /) -> Iterator[R]:
        if len(items) <= 1:
            yield from map_sequentially(function, items)
            return
        import ray

        if connect is not None and not ray.is_initialized():
            connect()
        if not ray.is_initialized():
            raise DataError(f"{workers} ingest workers need a Ray cluster. Call ray.init() first, or set workers to 1.")
        task: Any = ray.remote(num_cpus=1)(function)
        running: dict[Any, int] = {}
        done: dict[int, Any] = {}
        submitted = 0
        # Tasks are not cancelled if the caller stops early: ray.cancel may crash this process while a task is being assigned
        # to a worker (Ray 2.60: "Check failed: it != submissible_tasks_.end()").
        for index in range(len(items)):
            while index not in done:
                most = _max_submitted(workers)
                while submitted < len(items) and len(running) < most and len(done) < _AHEAD * most:
                    running[task.remote(items[submitted])] = submitted
                    submitted += 1
                (first, *_), _ = ray.wait(list(running), num_returns=1)
                done[running.pop(first)] = first
            yield ray.get(done.pop(index))

    return run


def _max_submitted(workers: int) -> int:
    """Number of tasks to submit: more than ``workers`` only if the cluster cannot run them in parallel."""
    import ray

    return 2 * workers if 0 < ray.cluster_resources().get("CPU", 0) <= workers else workers


def mapper_for(workers: int, connect: Callable[[], object] | None = None) -> Mapper:
    """:func:`map_sequentially` for one worker, :func:`map_with_ray` for more."""
    return map_sequentially if workers == 1 else map_with_ray(workers, connect)
