"""Whole steps as CUDA graphs (``train.compile: step``): the host starts one graph in place of every kernel or compiled call.

A CUDA graph repeats kernels on the addresses, and with the numbers, that they were recorded with. So what differs from step to
step lies in memory that stays where it is, and is refreshed before each replay: what the feed prepares (rows of resident data,
or pictures), random numbers (drawn on the device, named by the step as in every run), learning rates, and whatever else has a
schedule (:meth:`~gan_core.batch.Batch.scheduled`). Sums of metrics are added to in place. What else differs, such as which lazy
penalties are due, makes steps of different kinds, each with a graph of its own.

The graph holds the gather of the pictures, the forward and backward passes of both sides, and their optimisers. The average of
the weights is one more launch after it, because its decay changes with every step.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from gan_core import randomness
from gan_core.batch import Schedule, scheduled_by
from gan_core.families import Batch
from gan_core.memory import is_out_of_memory
from gan_core.training.feed import Batches
from gan_core.training.metrics_window import MetricsWindow
from gan_core.training.world import World

DEVICES = ("cuda",)
"""Types of devices on which steps are captured."""
WARM_UPS = 2
"""Steps of each kind that run before one is captured. They compile networks, choose kernels, and make the moments of Adam."""

Prepared = dict[str, Tensor]
"""What a feed prepares for a round (:meth:`~gan_core.training.feed.Batches.prepare`)."""
Play = Callable[[Sequence[int], Sequence[Prepared]], list[Batch]]
"""Trains a step, given the numbers of its rounds and what the feed has prepared for each. Returns the last round's batches."""


class Replayable(Protocol):
    """Something that repeats a recorded step."""

    def replay(self) -> None:
        """Repeat it, on what its memory holds now."""


class Round(int):
    """The number of a round, which moves on from step to step. In the key of a draw it says what the next step replaces."""

    place: int
    """The round's place in its step."""

    def __new__(cls, first: int, place: int) -> "Round":
        """Round ``place`` of the step whose first round is ``first``."""
        made = super().__new__(cls, first + place)
        made.place = place
        return made


def moved(key: randomness.Key, first: int) -> randomness.Key:
    """The ``key`` of a draw, or of a batch, in the step whose first round is ``first``."""
    return tuple(Round(first, part.place) if isinstance(part, Round) else part for part in key)


class CaptureError(Exception):
    """A step cannot be captured. It says why; the step has not been run."""


def refusal(device: torch.device, world: World) -> str | None:
    """Why steps are not captured at all on this device with these workers; None if they are."""
    if device.type not in DEVICES:
        return f"a {device.type} device has no CUDA graphs"
    if world.size > 1:
        return "several workers exchange gradients and statistics within a step"
    return None


class CudaGraphs:
    """Records work on a GPU in graphs that share their memory, since only one of them runs at a time.

    All work is done and recorded on one stream, as torch asks for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self.start_over()

    def start_over(self) -> None:
        """Share no memory with earlier graphs: torch refuses that of graphs which are all gone."""
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], Any]) -> Any:
        """Do ``work``."""
        current = torch.cuda.current_stream(self._device)  # without a device, that of the first GPU
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def capture(self, work: Callable[[], Any]) -> tuple[Replayable, Any]:
        """Record ``work`` without doing it. Returns the graph, and what ``work`` returned, in the graph's memory."""
        graph = torch.cuda.CUDAGraph()
        # Calls of other threads, such as one that reads pictures into pinned memory, must not end the recording.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = work()
        return graph, result


@dataclass
class _Kind:
    """What is known of the steps of one kind."""

    warm_ups: int = 0
    prepared: list[Prepared] = field(default_factory=list)
    """Memory of what the feed prepares, by round."""
    draws: list[tuple[randomness.Draw, Tensor]] = field(default_factory=list)
    """The requests for random numbers in their order, each with the memory of its numbers."""
    scheduled: list[tuple[Schedule, Tensor]] = field(default_factory=list)
    """Numbers with a schedule in the order in which they are asked for, each with its memory, a float32 scalar."""
    graph: Replayable | None = None
    batches: list[Batch] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)
    """How often a step adds to each metric."""


class CapturedSteps:
    """Trains steps: the first ones of each kind as they are, the others by replaying a graph."""

    def __init__(self, play: Play, feed: Batches, window: MetricsWindow, device: torch.device) -> None:
        """``play`` trains a step; it adds its metrics to ``window``."""
        self._play, self._feed, self._window = play, feed, window
        self._device, self._graphs = device, CudaGraphs(device)
        self._kinds: dict[Hashable, _Kind] = {}

    def forget(self) -> None:
        """Drop all graphs, because tensors of the run have been replaced."""
        self._kinds = {}
        self._graphs.start_over()

    def run(self, name: Hashable | None, step: int, rounds: range, progress: float) -> list[Batch]:
        """Train a step.

        Args:
            name: everything that decides which operations the step consists of; None if it must not be captured.
            step: its number.
            rounds: numbers of its rounds, counted over the whole run.
            progress: of the burn-in, 0 to 1.

        Returns:
            The micro-batches of its last round; valid until the next step.

        Raises:
            CaptureError: the step cannot be captured. It has not been trained.
        """
        kind = _Kind() if name is None else self._kinds.setdefault(name, _Kind())
        if kind.warm_ups < WARM_UPS:
            kind.warm_ups += 1
            return self._warm_up(kind, rounds)
        if kind.graph is None:
            self._capture(kind, rounds)
            assert kind.graph is not None
        self._refresh(kind, step, rounds, progress)
        kind.graph.replay()
        self._window.count(kind.times)
        return kind.batches

    def _warm_up(self, kind: _Kind, rounds: range) -> list[Batch]:
        """Train the step without a graph, and keep the memory of what it is given for the graph."""
        kind.prepared = [{name: given.clone() for name, given in self._feed.prepare(n).items()} for n in rounds]
        kind.draws, kind.scheduled = [], []

        def remember(draw: randomness.Draw) -> Tensor:
            kind.draws.append((draw, draw.make()))
            return kind.draws[-1][1]

        def keep(schedule: Schedule, step: int, progress: float) -> Tensor:
            kind.scheduled.append((schedule, torch.full((), schedule(step, progress), device=self._device)))
            return kind.scheduled[-1][1]

        with randomness.drawn_by(remember), scheduled_by(keep):
            batches = self._graphs.warm_up(lambda: self._play(_numbered(rounds), kind.prepared))
        for batch in batches:
            # What is kept of a backward pass would lead the next one to the stream that it ran on.
            batch.detach()
        return batches

    def _capture(self, kind: _Kind, rounds: range) -> None:
        known, numbers_of = iter(kind.draws), iter(kind.scheduled)

        def give(draw: randomness.Draw) -> Tensor:
            before, numbers = next(known, (None, None))
            if before is None or numbers is None or replace(before, key=moved(before.key, rounds.start)) != draw:
                raise CaptureError(f"the random numbers {draw.key} are not named by the step alone")
            return numbers

        try:
            with (
                randomness.drawn_by(give),
                scheduled_by(lambda *_: next(numbers_of)[1]),
                self._window.counted_apart() as times,
            ):
                graph, batches = self._graphs.capture(lambda: self._play(_numbered(rounds), kind.prepared))
        except Exception as error:  # torch raises all kinds
            first = _first(error)
            if is_out_of_memory(first):
                raise first from None
            raise CaptureError((str(first).strip().splitlines() or [type(first).__name__])[0]) from error
        for batch in batches:
            batch.detach()
        kind.graph, kind.batches, kind.times = graph, batches, times

    def _refresh(self, kind: _Kind, step: int, rounds: range, progress: float) -> None:
        """Put what this step is given where the graph reads it."""
        for n, memory in zip(rounds, kind.prepared, strict=True):
            for name, given in self._feed.prepare(n).items():
                memory[name].copy_(given)
        for draw, numbers in kind.draws:
            replace(draw, key=moved(draw.key, rounds.start)).fill(numbers)
        for schedule, value in kind.scheduled:
            value.fill_(schedule(step, progress))
        for batch in kind.batches:
            batch.key, batch.progress = moved(batch.key, rounds.start), progress


def _numbered(rounds: range) -> list[int]:
    return [Round(rounds.start, place) for place in range(len(rounds))]


def _first(error: BaseException) -> BaseException:
    """The first of several errors: one within a recording is followed by another, of the recording."""
    return error if error.__context__ is None else _first(error.__context__)
