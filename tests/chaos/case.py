"""Cases, and what all of them share."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.inject import Point, read_points
from tests.chaos.place import STAGES, Baseline, Place, make_template, run_baseline


class NotSupported(Exception):  # noqa: N818  not an error: the reason why the case cannot run on this machine
    """This machine cannot run the case. The message is the reason."""


TRIES = 10
"""How many moments a case chooses at most until one occurs."""


@dataclass
class Suite:
    """What all cases use."""

    folder: Path
    template: Place
    baseline: Baseline
    points: dict[str, list[Point]]
    """The moments of each stage in the undisturbed run."""
    small: bool
    """Whether this is the short form of the suite."""
    notes: list[str] = field(default_factory=list)
    """Notes of a run for the table."""


Run = Callable[[Suite, random.Random], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of fault."""

    name: str
    run: Run
    """Injects a fault chosen by the given random numbers and checks the results; raises AssertionError."""
    seconds: float = 240.0
    """Time limit of one run."""
    small: bool = True
    """Whether the short form runs it."""
    alone: bool = False
    """Whether no other case may run at the same time."""


def prepare(folder: Path, weights: Path, *, small: bool) -> Suite:
    """Make the checkout and run it without faults, recording the moments."""
    template = make_template(folder, weights)
    plans = {name: template.plan() for name in STAGES}
    baseline = run_baseline(template, plans)
    points = {name: read_points(Path(plan.log)) for name, plan in plans.items()}
    return Suite(folder=folder, template=template, baseline=baseline, points=points, small=small)


def choose(numbers: random.Random, points: Iterable[Point], kinds: Iterable[str]) -> Point:
    """Choose a moment: first a kind, then a place, then its number, so that rare kinds and places are as likely as others."""
    by_kind: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if point.kind in kinds:
            by_kind[point.kind][point.place].append(point)
    assert by_kind, f"the undisturbed run has no moment of kind {', '.join(kinds)}"
    places = by_kind[numbers.choice(sorted(by_kind))]
    return numbers.choice(places[numbers.choice(sorted(places))])


def repeat_until_it_comes(once: Callable[[], bool], what: str) -> None:
    """Call ``once`` until it returns True, that is, until its fault came in time; AssertionError if it never does.

    Each call chooses a moment anew. It may come too late, or never, since no two runs take the same time.
    """
    for _ in range(TRIES):
        if once():
            return
    raise AssertionError(f"none of {TRIES} chosen moments occurred in {what}")


def by_name(cases: Sequence[Case]) -> dict[str, Case]:
    """Cases by name. Names must be unique."""
    named = {case.name: case for case in cases}
    assert len(named) == len(cases), "two cases have the same name"
    return named
