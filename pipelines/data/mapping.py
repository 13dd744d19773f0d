"""Running one function over fixed pieces of work: here, or as Ray tasks. The results are the same, in the same order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from gan_core.errors import DataError

S = TypeVar("S")
R = TypeVar("R")


class Mapper(Protocol):
    """``mapper(function, pieces)`` yields ``function(piece)`` in the order of the pieces."""

    def __call__(self, function: Callable[[S], R], pieces: Sequence[S], /) -> Iterator[R]:
        """Yield the results in order."""
        ...


def map_here(function: Callable[[S], R], pieces: Sequence[S], /) -> Iterator[R]:
    """Run everything in this process, one piece after the other."""
    return (function(piece) for piece in pieces)


def map_with_ray(workers: int, connect: Callable[[], object] | None = None) -> Mapper:
    """A mapper that runs at most ``workers`` Ray tasks of one CPU each at once, on the cluster that is connected.

    A single piece runs in this process. Where there are more and no cluster is connected yet, ``connect`` connects one: to
    start it takes longer than to convert a small data set.

    Of a cluster with no more CPUs than that, each finds a piece waiting when it is done; should the cluster grow just then,
    those that wait run beside the others.

    What the pieces read and write must be reachable from every node: absolute paths, shared storage beyond one machine.
    """

    def run(function: Callable[[S], R], pieces: Sequence[S], /) -> Iterator[R]:
        if len(pieces) <= 1:
            yield from map_here(function, pieces)
            return
        import ray

        if connect is not None and not ray.is_initialized():
            connect()
        if not ray.is_initialized():
            raise DataError(f"{workers} ingest workers need a Ray cluster; call ray.init() first, or set workers to 1.")
        task: Any = ray.remote(num_cpus=1)(function)
        running: dict[Any, int] = {}
        done: dict[int, Any] = {}
        submitted = 0
        # Those that are left where somebody gives up run to their end: ray.cancel can take this process down with it, where
        # a task is given to a worker just then (Ray 2.60: "Check failed: it != submissible_tasks_.end()").
        for wanted in range(len(pieces)):
            while wanted not in done:
                while submitted < len(pieces) and len(running) < _at_once(workers):
                    running[task.remote(pieces[submitted])] = submitted
                    submitted += 1
                (first, *_), _ = ray.wait(list(running), num_returns=1)
                done[running.pop(first)] = first
            yield ray.get(done.pop(wanted))

    return run


def _at_once(workers: int) -> int:
    """How many tasks may be handed to Ray: more than ``workers`` only while the cluster itself runs no more at once."""
    import ray

    return 2 * workers if 0 < ray.cluster_resources().get("CPU", 0) <= workers else workers


def mapper_for(workers: int, connect: Callable[[], object] | None = None) -> Mapper:
    """:func:`map_here` for one worker, Ray tasks for more (:func:`map_with_ray`)."""
    return map_here if workers == 1 else map_with_ray(workers, connect)
