"""The gates of promotion: what a version must show, against the champion and by itself, to become champion.

Each gate gives a verdict. A gate that is on and lacks a figure is not measured, which blocks as a failure does.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gan_core.errors import TrackingError
from gan_core.metrics.difference import beyond_noise, paired_difference
from gan_core.metrics.protocol import Figure
from pipelines.registry.measured import Measured
from pipelines.settings.promote import PromoteSettings

MAX_LINE_LENGTH = 320
"""In characters, of a verdict in the ledger: six lines fit into an entry beside a long reason."""
NO_CHAMPION = "there is no champion to compare with"
_RESTORE = "Restore its files"


class State(StrEnum):
    """Outcome of a gate."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_MEASURED = "not measured"
    NOT_APPLICABLE = "does not apply"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate says about a version."""

    gate: str
    setting: str
    """Name of the setting that switches the gate, in params.yaml."""
    bound: str
    """Value of the setting."""
    state: State
    found: str = ""
    """The figures, or why there is no verdict."""
    failure: str = ""
    """If it failed: predicate of a sentence about the version."""
    remedy: str = ""
    """If it is not measured: how to measure it."""
    measure: str = ""
    """If measuring a version again may help: its number."""

    @property
    def blocks(self) -> bool:
        """Whether the version may not become champion."""
        return self.state in (State.FAILED, State.NOT_MEASURED)

    @property
    def line(self) -> str:
        """The verdict in one line, for the ledger."""
        return f"{self.gate} ({self.setting}: {self.bound}): {self.state}{f', {self.found}' if self.found else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "state": str(self.state)}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All verdicts on a version, and how its objective compares with the champion's."""

    challenger: Measured
    champion: Measured | None
    verdicts: tuple[Verdict, ...]
    found: str = ""
    """Both objectives, and whether the difference exceeds the noise; empty if they were not compared."""
    within_noise: bool | None = None
    """Whether the difference is within the noise; None if it is unknown, or nothing was compared."""
    is_champion: bool = False
    """Whether the version is the champion already, so that there is nothing to compare it with."""

    @property
    def blocking(self) -> list[Verdict]:
        """The verdicts that block. Failures come first: measuring more cannot help."""
        return sorted(filter(lambda verdict: verdict.blocks, self.verdicts), key=lambda v: v.state is not State.FAILED)


class IncomparableError(TrackingError):
    """A gate lacks a figure that measuring a version again may give."""

    def __init__(self, message: str, version: str) -> None:
        super().__init__(message)
        self.version = version
        """Number of the version to measure."""


def judge(challenger: Measured, champion: Measured | None, gates: PromoteSettings) -> Comparison:
    """The verdict of every gate on ``challenger``; ``champion`` is the current one."""
    promote = f"gantry promote {challenger.name} --version {challenger.version}"
    gap = _incomparable(challenger, champion, promote)
    new, old = challenger.objective, champion.objective if champion else None
    found, within = "", None
    if gap is None and new and old and champion:
        found, within = _compare_objectives(new, old, _measured_again(challenger, champion))
    verdicts = [
        _objective(challenger, champion, gates, gap),
        _noise(challenger, champion, gates, gap, found, within),
        _drop("recall", challenger, champion, gates.max_recall_drop, promote),
        _drop("coverage", challenger, champion, gates.max_coverage_drop, promote),
        _copied(challenger, gates.max_copied, promote),
        _rollbacks(challenger, gates.max_rollbacks),
    ]
    better = new is not None and old is not None and _is_better(new, old)
    return Comparison(
        challenger=challenger,
        champion=champion,
        verdicts=tuple(verdicts),
        found=found if better else "",
        within_noise=within if better else None,
    )


def refuse_blocked(comparison: Comparison) -> None:
    """Raise an error that names the gates that block, each with its remedy; do nothing if none does.

    Raises:
        IncomparableError: measuring a version again may help.
        TrackingError: a gate failed, or lacks something that cannot be measured.
    """
    blocking, challenger = comparison.blocking, comparison.challenger
    if not blocking:
        return
    promote = f"gantry promote {challenger.name} --version {challenger.version}"
    force = f'{promote} --force --reason "why"'
    first = blocking[0]
    if first.state is State.FAILED:
        failures = [verdict.failure for verdict in blocking if verdict.state is State.FAILED]
        raise TrackingError(
            f"Version {challenger.version} of '{challenger.name}' {'; and '.join(failures)}. To promote it anyway: {force}."
        )
    message = f"{first.found} {first.remedy}. Or promote without a comparison: {force}."
    raise IncomparableError(message, first.measure) if first.measure else TrackingError(message)


# -- the objective -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Gap:
    """Why two objectives cannot be compared."""

    why: str
    remedy: str
    measure: str


def _incomparable(challenger: Measured, champion: Measured | None, promote: str) -> _Gap | None:
    """Why the objectives cannot be compared; None if they can, or if there is no champion and the version has one."""
    for side in (challenger, champion):
        if side is not None and side.damaged:
            return _Gap(why=side.missing, remedy=_RESTORE, measure="")
        if side is not None and side.objective is None:
            remedy = f"Measure it on the data of this checkout: {promote} --measure"
            return _Gap(why=side.missing, remedy=remedy, measure=side.version)
    if champion is None:
        return None
    new, old = challenger.objective, champion.objective
    assert new is not None
    assert old is not None
    different = [f"figure: {new.name} against {old.name}"] if new.name != old.name else []
    different += new.protocol.differences(old.protocol)
    if not different:
        return None
    remedy = f"Measure the champion again, on the data and settings of this checkout: {promote} --measure"
    if champion.again:
        remedy = (
            "The data or settings of this checkout (data/prepared, evaluate in params.yaml) are not those that the "
            "challenger was measured with"
        )
    why = (
        f"Version {challenger.version} of '{challenger.name}' cannot be compared with the champion, version "
        f"{champion.version}: they were measured under different protocols ({'; '.join(different)})."
    )
    return _Gap(why=why, remedy=remedy, measure=champion.version)


def _is_better(new: Figure, old: Figure) -> bool:
    return new.value > old.value if new.higher_is_better else new.value < old.value


def _direction(figure: Figure) -> str:
    return "higher" if figure.higher_is_better else "lower"


def _digits(value: float | None) -> str:
    """A figure with four decimals, or four digits below 0.1: two KIDs often differ in the fifth decimal only."""
    assert value is not None, "it was compared"
    return f"{value:.4f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4g}"


def _objective(challenger: Measured, champion: Measured | None, gates: PromoteSettings, gap: _Gap | None) -> Verdict:
    verdict = _maker("better objective", "promote.better_objective", gates.better_objective)
    if not gates.better_objective:
        return verdict(State.OFF)
    if gap:
        return verdict(State.NOT_MEASURED, gap.why, remedy=gap.remedy, measure=gap.measure)
    new, old = challenger.objective, champion.objective if champion else None
    assert new is not None
    if old is None or champion is None:
        return verdict(State.NOT_APPLICABLE, f"{new.name} {_digits(new.value)}, {NO_CHAMPION}")
    found = f"{new.name} {_digits(new.value)} against {_digits(old.value)} ({_direction(new)} is better)"
    if _is_better(new, old):
        return verdict(State.PASSED, found)
    failure = f"is not better than the champion, version {champion.version}: {found}"
    return verdict(State.FAILED, found, failure=failure)


def _measured_again(challenger: Measured, champion: Measured) -> str:
    """Which figures are not those that the versions have in their files; with a comma before it, or empty."""
    again = [name for name, side in (("the version", challenger), ("the champion", champion)) if side.again]
    return f", {' and '.join(again)} measured again" if again else ""


def _compare_objectives(new: Figure, old: Figure, how: str) -> tuple[str, bool | None]:
    """Both figures in words, and whether the difference is within the noise (None if that is unknown)."""
    found = f"{new.name} {_digits(new.value)} against {_digits(old.value)} under the same protocol{how}"
    word = _direction(new)
    apart = beyond_noise(new, old)
    if apart is None:
        return found, None
    verdict = f"{found}, {word} by more than the noise" if apart else f"{found}; {word}, but within the noise"
    if difference := paired_difference(new, old):
        value, low, high = map(_digits, (difference.value, difference.low, difference.high))
        ends = f"difference {value}, 95 % interval {low} to {high}"
        return f"{verdict} ({ends}, paired on the same real pictures)", not apart
    if apart:
        return verdict, False
    ends = " and ".join(f"{_digits(one.low)} to {_digits(one.high)}" for one in (new, old))
    return f"{verdict}: the 95 % intervals {ends} overlap", True


def _noise(
    challenger: Measured,
    champion: Measured | None,
    gates: PromoteSettings,
    gap: _Gap | None,
    found: str,
    within: bool | None,
) -> Verdict:
    least = gates.beyond_noise_from
    verdict = _maker("beyond noise", "promote.beyond_noise_from", least)
    if least is None:
        return verdict(State.OFF)
    if gap:
        return verdict(State.NOT_MEASURED, gap.why, remedy=gap.remedy, measure=gap.measure)
    new, old = challenger.objective, champion.objective if champion else None
    assert new is not None
    if champion is None or old is None:
        return verdict(State.NOT_APPLICABLE, NO_CHAMPION)
    if new.protocol.fake_count < least:
        return verdict(State.NOT_APPLICABLE, f"{new.protocol.fake_count} generated pictures, fewer than {least}")
    if within is None:
        side = champion if old.low is None else challenger
        return verdict(
            State.NOT_MEASURED,
            f"The {new.name} of version {side.version} of '{side.name}' has no interval, so the noise is unknown.",
            remedy=f"Measure it again: gantry promote {challenger.name} --version {challenger.version} --measure",
            measure=side.version,
        )
    if not _is_better(new, old):
        return verdict(State.FAILED, "not better at all", failure="is not better by more than the noise")
    if within:
        return verdict(State.FAILED, found, failure=f"is not better by more than the noise: {found}")
    return verdict(State.PASSED, found)


# -- other figures -----------------------------------------------------------------------------------------------------


def _drop(name: str, challenger: Measured, champion: Measured | None, bound: float | None, promote: str) -> Verdict:
    """The gate on a figure that must not fall far below the champion's, in any direction."""
    setting = f"promote.max_{name}_drop"
    verdict = _maker(name, setting, bound)
    if bound is None:
        return verdict(State.OFF)
    if champion is None:
        return verdict(State.NOT_APPLICABLE, NO_CHAMPION)
    new, old = challenger.figures_named(name), champion.figures_named(name)
    if not new and challenger.translates:
        return verdict(State.NOT_APPLICABLE, f"{name} is not measured for translations")
    for side, figures in ((challenger, new), (champion, old)):
        if not figures:
            return _missing(verdict, name, side, setting, promote)
    if set(new) != set(old):
        directions = [" and ".join(sorted(figures)) or "generated pictures" for figures in (new, old)]
        return verdict(
            State.NOT_MEASURED,
            f"The {name} of version {challenger.version} of '{challenger.name}' cannot be compared with the champion's: it was "
            f"measured for {directions[0]}, that of version {champion.version} for {directions[1]}.",
            remedy=f"To promote without it, {_switch_off(setting)}",
        )
    drops = {}
    for direction, figure in new.items():
        before = old[direction]
        if different := figure.protocol.differences(before.protocol):
            return verdict(
                State.NOT_MEASURED,
                f"The {name} of version {challenger.version} of '{challenger.name}' cannot be compared with the champion's: "
                f"they were measured under different protocols ({'; '.join(different)}).",
                remedy=f"Measure the champion again, on the data and settings of this checkout: {promote} --measure",
                measure=champion.version,
            )
        drops[direction] = before.value - figure.value
    worst = max(drops, key=lambda direction: drops[direction])
    where = f" ({worst})" if worst else ""
    found = f"{name}{where} {new[worst].value:.4f} against {old[worst].value:.4f} (higher is better)"
    if drops[worst] > bound:
        failure = f"has a {name} more than {bound:g} below that of the champion, version {champion.version}: {found}"
        return verdict(State.FAILED, found, failure=failure)
    return verdict(State.PASSED, found)


def _copied(challenger: Measured, bound: float | None, promote: str) -> Verdict:
    """The gate on copies of training pictures, which allows for copies by chance and for the noise of the estimate."""
    setting = "promote.max_copied"
    verdict = _maker("not copying", setting, bound)
    if bound is None:
        return verdict(State.OFF)
    figures = challenger.figures_named("memorisation")
    if not figures and challenger.translates:
        return verdict(State.NOT_APPLICABLE, "memorisation is not measured for translations")
    if not figures:
        return _missing(verdict, "memorisation", challenger, setting, promote)

    def least(figure: Figure) -> float:
        return (figure.value if figure.low is None else figure.low) - (figure.baseline or 0.0)

    worst = max(figures.values(), key=least)
    interval = "" if worst.low is None else f" (95 % interval from {worst.low:.4f})"
    found = f"memorisation {worst.value:.4f}{interval}, {worst.baseline or 0.0:.4f} by chance"
    if least(worst) > bound:
        return verdict(
            State.FAILED, found, failure=f"copies training pictures, more than {bound:g} of its own: {found}"
        )
    return verdict(State.PASSED, found)


def _rollbacks(challenger: Measured, bound: int | None) -> Verdict:
    verdict = _maker("no collapse", "promote.max_rollbacks", bound)
    if bound is None:
        return verdict(State.OFF)
    if challenger.rollbacks is None:
        return verdict(
            State.NOT_MEASURED,
            f"Version {challenger.version} of '{challenger.name}' does not record whether its training collapsed, because an "
            "older version of Gantry trained it.",
            remedy="Train it again (gantry run), or switch the gate off: promote.max_rollbacks: null in params.yaml",
        )
    count = len(challenger.rollbacks)
    found = f"{count} rollback{'' if count == 1 else 's'} in training"
    if count:
        found += f", the first at {challenger.rollbacks[0][:120]}"
    if count > bound:
        return verdict(State.FAILED, found, failure=f"collapsed or diverged in training: {found}")
    return verdict(State.PASSED, found)


_Make = Callable[..., Verdict]


def _maker(gate: str, setting: str, bound: bool | float | None) -> _Make:
    """A function that makes the verdicts of one gate: takes the state and what was found."""
    shown = ("on" if bound else "off") if isinstance(bound, bool) else "off" if bound is None else f"{bound:g}"

    def make(state: State, found: str = "", **more: str) -> Verdict:
        return Verdict(gate=gate, setting=setting, bound=shown, state=state, found=found, **more)

    return make


def _switch_off(setting: str) -> str:
    return f"switch the gate off: {setting}: null in params.yaml"


def _missing(verdict: _Make, name: str, side: Measured, setting: str, promote: str) -> Verdict:
    """The verdict of a gate whose figure ``side`` lacks."""
    off = _switch_off(setting)
    if side.damaged:
        return verdict(State.NOT_MEASURED, side.missing, remedy=f"{_RESTORE}, or {off}")
    what = f"Version {side.version} of '{side.name}' has no figure {name}."
    if side.again:
        what = f"The settings of this checkout do not measure {name} for version {side.version} of '{side.name}'."
        return verdict(State.NOT_MEASURED, what, remedy=f"To promote without it, {off}")
    remedy = f"Measure it on the data of this checkout: {promote} --measure; or {off}"
    return verdict(State.NOT_MEASURED, what, remedy=remedy, measure=side.version)


def lines(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """The verdicts as the ledger stores them, each shortened to keep an entry within the registry's limit."""
    return tuple(textwrap.shorten(verdict.line, MAX_LINE_LENGTH, placeholder="...") for verdict in verdicts)
