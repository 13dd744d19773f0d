"""What a case is, and what all of them share."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.inject import Point, read_points
from tests.chaos.place import STAGES, Place, Unbroken, make_template, run_unbroken


class NotHere(Exception):  # noqa: N818  no error: the case says why it cannot be run on this machine
    """This machine cannot run the case; says why."""


@dataclass
class Suite:
    """What the cases start from."""

    folder: Path
    template: Place
    unbroken: Unbroken
    points: dict[str, list[Point]]
    """The moments of each stage's unbroken run."""
    small: bool
    """Whether this is the short form of the suite."""
    notes: list[str] = field(default_factory=list)
    """What a run has to say for the table."""


Run = Callable[[Suite, random.Random], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of fault."""

    name: str
    run: Run
    """Breaks something, by the random numbers that it is given, and checks what has to hold; raises AssertionError."""
    seconds: float = 240.0
    """Longest time that one run may take."""
    small: bool = True
    """Whether the short form runs it."""
    alone: bool = False
    """Whether nothing else may run beside it."""


def prepare(folder: Path, weights: Path, *, small: bool) -> Suite:
    """Make the checkout and run it unbroken, counting the moments."""
    template = make_template(folder, weights)
    plans = {name: template.plan() for name in STAGES}
    unbroken = run_unbroken(template, plans)
    points = {name: read_points(Path(plan.log)) for name, plan in plans.items()}
    return Suite(folder=folder, template=template, unbroken=unbroken, points=points, small=small)


def choose(numbers: random.Random, points: Iterable[Point], kinds: Iterable[str]) -> Point:
    """A moment of one of ``kinds``: first a kind, then a place, then which time. Rare ones come as often as frequent ones."""
    by_kind: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if point.kind in kinds:
            by_kind[point.kind][point.place].append(point)
    assert by_kind, f"the unbroken run has no moment of {', '.join(kinds)}"
    places = by_kind[numbers.choice(sorted(by_kind))]
    return numbers.choice(places[numbers.choice(sorted(places))])


def every(cases: Sequence[Case]) -> dict[str, Case]:
    """Cases by name; two of one name are a mistake."""
    named = {case.name: case for case in cases}
    assert len(named) == len(cases), "two cases have one name"
    return named
