"""A stage is killed, interrupted or finds the disk full at one of its writes. The next run gives the undisturbed results."""

import random
from functools import partial

from tests.chaos.case import Case, Suite, choose, repeat_until_it_comes
from tests.chaos.checks import check_logs_sent, check_metrics, check_one_version, check_same, check_whole, make_old
from tests.chaos.inject import WRITES, Point
from tests.chaos.place import STAGES, Ended, Place, orphans

ANY = WRITES | {"remove", "start"}
FAULTS = {
    "kill": ANY,
    "tear": frozenset({"write", "append"}),
    "kill-guard": ANY,
    "full": WRITES,
    "fill": frozenset({"write", "append"}),
    "interrupt": ANY,
    "terminate": ANY,
    "clock": ANY,
}
"""Actions of the injector, and the kinds of moments for each."""
SMALL = {
    "tear": ("train",),
    "kill-guard": ("ingest",),
    "full": ("train", "register"),
    "fill": ("evaluate",),
    "interrupt": ("train",),
    "terminate": ("register",),
    "clock": ("train",),
    "kill": STAGES,
}
"""Stages of the short form."""


def cases() -> list[Case]:
    """Each fault at each stage."""
    return [
        Case(
            name=f"{action}-{stage}",
            run=partial(break_stage, stage=stage, action=action, kinds=kinds),
            small=stage in SMALL[action],
        )
        for action, kinds in FAULTS.items()
        for stage in STAGES
    ]


def break_stage(suite: Suite, numbers: random.Random, *, stage: str, action: str, kinds: frozenset[str]) -> None:
    """Make the stage fail at one moment, run it again, and check everything."""

    def once() -> bool:
        # The stage runs without a guard, whose parent would be the suite.
        guarded = [point for point in suite.points[stage] if point.place != "fork"]
        point = choose(numbers, guarded if action == "kill-guard" else suite.points[stage], kinds)
        with suite.baseline.before[stage].copy() as place:
            first = place.stage(stage, place.plan(point, action))
            if not first.acted:
                return False  # threads share the work anew in each run; or it tore a file that stays empty
            suite.notes.append(str(point))
            check_end(first, action, point)
            left = orphans()
            assert not left, f"still running: {'; '.join(left)}"
            make_old(place)
            check_rerun(suite, place, stage)
        return True

    repeat_until_it_comes(once, stage)


def check_end(ended: Ended, action: str, point: Point) -> None:
    """Check that a stage that could still print something reported the fault in one line."""
    last = ended.output[-1500:]
    if action in ("kill", "tear"):
        assert ended.status != 0, f"should have been killed at {point} but succeeded:\n{last}"
    assert "Traceback" not in ended.output, f"a traceback after {action} at {point}:\n{last}"
    if action in ("full", "fill") and ended.status != 0:
        assert "no space left" in ended.output.lower(), f"does not say that the disk is full at {point}:\n{last}"


def sync_all() -> None:
    """``gantry track sync``."""
    from pipelines.commands.track import track

    track(["sync"], standalone_mode=False)


def check_rerun(suite: Suite, place: Place, stage: str, **extra: str) -> None:
    """Run the stage again; check that everything is as after the undisturbed run."""
    second = place.stage(stage, **extra)
    assert second.status == 0, f"the run after it ended with {second.status}:\n{second.output[-3000:]}"
    check_same(place, stage, suite.baseline.results(stage))
    sent = place.call(
        sync_all
    )  # what the shipper could not send in its time waits on disk, for the next run or for this
    assert sent.status == 0, f"gantry track sync failed:\n{sent.output[-2000:]}"
    check_whole(place)
    if stage != "tune":  # no search: no run
        check_metrics(place, name=stage)
    check_logs_sent(place)
    if stage == "register":
        check_one_version(place)
