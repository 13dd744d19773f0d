"""Each gate passes, fails, or says how to measure what it lacks; the ledger keeps all verdicts."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from gan_core.errors import TrackingError
from gan_core.metrics.protocol import Figure
from pipelines.commands import promote as cli
from pipelines.registry.gate import MAX_LINE_LENGTH, IncomparableError, State, judge, lines, refuse_blocked
from pipelines.registry.ledger import to_tag
from pipelines.registry.measured import Measured
from pipelines.registry.promote import check_gates, load_ledger, promote
from pipelines.settings.promote import OBJECTIVE_ONLY, PromoteSettings
from tests.pipelines.registry.conftest import PROTOCOL, other_figure

ALL = PromoteSettings(max_recall_drop=0.05, max_coverage_drop=0.05, max_copied=0.05)


def fid(value: float, count: int = 5000, **more) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, fake_count=count)
    return Figure(name="fid", value=value, protocol=protocol, generator_digest="g", **more)


def version(objective: Figure | None, number: str = "2", rollbacks: tuple | None = (), **others: float) -> Measured:
    figures = [other_figure(name, value) for name, value in others.items()]
    return Measured(
        name="digits",
        version=number,
        objective=objective,
        missing="" if objective else f"Version {number} of 'digits' has no metrics.json.",
        figures=(*([objective] if objective else []), *figures),
        rollbacks=rollbacks,
    )


def verdict(gate: str, new: Measured, old: Measured | None, gates: PromoteSettings = ALL):
    return next(each for each in judge(new, old, gates).verdicts if each.gate == gate)


OLD = version(fid(30.0), "1", recall=0.5, coverage=0.8)


@pytest.mark.parametrize(
    ("gate", "bound", "passes", "fails"),
    [
        ("better objective", "on", version(fid(29.0)), version(fid(30.0))),
        ("recall", "0.05", version(fid(1.0), recall=0.46), version(fid(1.0), recall=0.44)),
        ("coverage", "0.05", version(fid(1.0), coverage=0.9), version(fid(1.0), coverage=0.7)),
        ("not copying", "0.05", version(fid(1.0), memorisation=0.14), version(fid(1.0), memorisation=0.16)),
        ("no collapse", "0", version(fid(1.0)), version(fid(1.0), rollbacks=("step 80: it collapsed",))),
    ],
)
def test_a_gate_passes_up_to_its_bound_and_fails_beyond(gate, bound, passes, fails) -> None:
    assert verdict(gate, passes, OLD).state is State.PASSED
    failed = verdict(gate, fails, OLD)
    assert (failed.state, failed.bound) == (State.FAILED, bound)
    with pytest.raises(TrackingError, match=r"^Version 2 of 'digits' .*To promote it anyway: .* --force") as raised:
        refuse_blocked(judge(fails, OLD, ALL))
    assert failed.failure in str(raised.value)


def test_a_higher_objective_is_better_if_it_is_such_a_figure() -> None:
    old, low, high = (
        dataclasses.replace(fid(value), name="recall", higher_is_better=True) for value in (0.5, 0.4, 0.6)
    )
    states = [verdict("better objective", version(new), version(old, "1")).state for new in (low, high)]
    assert states == [State.FAILED, State.PASSED]


def test_kids_that_differ_in_a_late_decimal_are_shown_with_it() -> None:
    new, old = (
        dataclasses.replace(fid(value, low=value / 2, high=value * 2), name="kid") for value in (5.211e-5, 5.234e-5)
    )
    shown = verdict("better objective", version(new), version(old, "1"))
    assert (shown.state, shown.found) == (State.PASSED, "kid 5.211e-05 against 5.234e-05 (lower is better)")
    assert "2.606e-05 to 0.0001042 and" in judge(version(new), version(old, "1"), ALL).found


@pytest.mark.parametrize("gate", ["better objective", "recall", "coverage", "not copying", "no collapse"])
def test_a_gate_without_its_figure_blocks_and_says_how_to_measure_it(gate) -> None:
    lacking = version(None, rollbacks=None)
    found = verdict(gate, lacking, OLD)
    assert found.state is State.NOT_MEASURED
    assert found.blocks
    assert "gantry run" in found.remedy if gate == "no collapse" else "--measure" in found.remedy
    off = dataclasses.replace(
        ALL,
        better_objective=False,
        beyond_noise_from=None,
        max_recall_drop=None,
        max_coverage_drop=None,
        max_copied=None,
        max_rollbacks=None,
    )
    assert judge(lacking, OLD, off).blocking == []


def test_a_champion_without_a_figure_is_the_one_to_measure() -> None:
    found = verdict("recall", version(fid(1.0), recall=0.5), version(fid(30.0), "1"))
    assert (found.state, found.measure) == (State.NOT_MEASURED, "1")
    again = dataclasses.replace(version(fid(30.0), "1"), again=True)
    found = verdict("recall", version(fid(1.0), recall=0.5), again)
    assert found.measure == ""
    assert "settings of this checkout do not measure recall" in found.found


def test_figures_of_other_protocols_are_not_compared() -> None:
    other = dataclasses.replace(other_figure("recall", 0.5, dataclasses.replace(PROTOCOL, fake_count=7)))
    new = dataclasses.replace(version(fid(1.0)), figures=(fid(1.0), other))
    found = verdict("recall", new, OLD)
    assert found.state is State.NOT_MEASURED
    assert "fake_count: 7 against 1000" in found.found


def jackknifed(value: float, spread: float, seed: int, count: int = 5000) -> Figure:
    """A figure with the noise ``spread`` of its own and a much larger noise that it shares with others."""
    shared = np.random.default_rng(0).normal(size=10)
    own = np.random.default_rng(seed).normal(size=10) * spread
    return fid(value, count, low=value - 9, high=value + 9, jackknife=tuple(value + shared + own))


def test_figures_of_other_directions_are_not_compared_and_neither_version_is_blamed() -> None:
    there, back = (
        other_figure("recall", 0.5, dataclasses.replace(PROTOCOL, direction=direction))
        for direction in ("horses-zebras", "zebras-horses")
    )
    new = dataclasses.replace(version(fid(1.0)), figures=(there,))
    old = dataclasses.replace(version(fid(30.0), "1"), figures=(there, back))
    found = verdict("recall", new, old)
    assert (found.state, found.measure) == (State.NOT_MEASURED, "")
    assert "was measured for horses-zebras, that of version 1 for horses-zebras and zebras-horses" in found.found


def test_the_noise_gate_pairs_the_figures_on_the_same_real_pictures() -> None:
    old = version(jackknifed(30.0, 0.01, 1), "1")
    clear = verdict("beyond noise", version(jackknifed(29.0, 0.01, 2)), old)
    assert clear.state is State.PASSED
    assert "paired on the same real pictures" in clear.found
    within = verdict("beyond noise", version(jackknifed(29.99, 0.1, 2)), old)
    assert within.state is State.FAILED
    assert "within the noise" in within.failure


def test_the_noise_gate_uses_the_intervals_of_versions_without_a_jackknife() -> None:
    old = version(fid(30.0, low=28.0, high=32.0), "1")
    assert verdict("beyond noise", version(fid(25.0, low=24.0, high=26.0)), old).state is State.PASSED
    within = verdict("beyond noise", version(fid(29.0, low=27.0, high=31.0)), old)
    assert within.state is State.FAILED
    assert "intervals 27.0000 to 31.0000 and 28.0000 to 32.0000 overlap" in within.found
    unknown = verdict("beyond noise", version(fid(25.0)), old)
    assert (unknown.state, unknown.measure) == (State.NOT_MEASURED, "2")


def test_the_noise_gate_does_not_apply_to_few_pictures() -> None:
    old, new = version(fid(30.0, 600), "1"), version(fid(29.0, 600))
    found = verdict("beyond noise", new, old)
    assert (found.state, found.found) == (State.NOT_APPLICABLE, "600 generated pictures, fewer than 2000")
    always = dataclasses.replace(ALL, beyond_noise_from=0)
    assert verdict("beyond noise", new, old, always).state is State.NOT_MEASURED


def test_the_first_champion_needs_only_what_it_can_show_by_itself() -> None:
    first = judge(version(fid(30.0), memorisation=0.1), None, ALL)
    assert first.blocking == []
    assert [each.state for each in first.verdicts].count(State.NOT_APPLICABLE) == 4
    assert judge(version(fid(30.0)), None, ALL).blocking[0].gate == "not copying"


def test_a_generator_that_translates_needs_no_figure_of_samples() -> None:
    old, new = (dataclasses.replace(version(fid(value, 600)), translates=True) for value in (30.0, 20.0))
    assert judge(new, old, ALL).blocking == []


def test_failures_are_named_before_what_is_not_measured() -> None:
    found = judge(version(fid(40.0), rollbacks=("step 3: NaN",)), OLD, ALL)
    assert {each.state for each in found.blocking} == {State.FAILED, State.NOT_MEASURED}
    with pytest.raises(TrackingError, match="is not better than .*; and collapsed or diverged in training") as raised:
        refuse_blocked(found)
    assert not isinstance(raised.value, IncomparableError)


def test_the_ledger_records_every_verdict_even_of_a_forced_promotion(register, uri) -> None:
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(31.0)
    move = promote("digits", tracking_uri=uri, gates=ALL, force=True, reason="wanted")
    assert [line.split(" (")[0] for line in move.gates] == [
        "better objective",
        "beyond noise",
        "recall",
        "coverage",
        "not copying",
        "no collapse",
    ]
    assert move.gates[0].endswith("failed, fid 31.0000 against 30.0000 (lower is better)")
    assert load_ledger("digits", tracking_uri=uri).moves()[-1] == move


def test_six_long_verdicts_fit_into_an_entry() -> None:
    long = dataclasses.replace(judge(version(fid(1.0)), OLD, ALL).verdicts[0], found="word " * 1000)
    shortened = lines([long] * 6)
    assert all(len(line) <= MAX_LINE_LENGTH for line in shortened)
    from tests.pipelines.registry.test_ledger import Registry

    move = Registry().ledger().next_move("promote", version="1", reason="r" * 1000, found="f" * 600, gates=shortened)
    assert len(to_tag(move)[1]) < 5000


def test_a_dry_run_shows_every_gate_and_promotes_nothing(register, uri, monkeypatch) -> None:
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(31.0)
    result = CliRunner().invoke(cli.promote, ["digits", "--dry-run"])
    assert result.exit_code == 0, result.output
    first, _, *rows, last = result.output.splitlines()
    assert first == "digits: version 2 against the champion, version 1"
    assert rows[0].split("  ")[0] == "better objective"
    assert "failed" in rows[0]
    assert last == "It would not be promoted."
    result = json.loads(CliRunner().invoke(cli.promote, ["digits", "--dry-run", "--json"]).output)
    assert not result["promotes"]
    assert len(result["gates"]) == 6
    assert len(load_ledger("digits", tracking_uri=uri).moves()) == 1
    listed = CliRunner().invoke(cli.ledger, ["digits", "--gates"]).output
    assert "    no collapse (promote.max_rollbacks: off): off" in listed


def test_a_dry_run_of_the_champion_does_not_say_that_it_would_be_promoted(register, uri, monkeypatch) -> None:
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri)
    result = CliRunner().invoke(cli.promote, ["digits", "--dry-run"])
    assert result.output == "digits: version 1 is already the champion; gantry promote would change nothing.\n"
    result = json.loads(CliRunner().invoke(cli.promote, ["digits", "--dry-run", "--json"]).output)
    assert (result["promotes"], result["champion"]) == (False, "1")


def test_the_comparison_names_the_figures_that_were_measured_again() -> None:
    new, old = dataclasses.replace(version(fid(20.0)), again=True), version(fid(30.0), "1")
    assert "under the same protocol, the version measured again" in judge(new, old, OBJECTIVE_ONLY).found
    both = judge(new, dataclasses.replace(old, again=True), OBJECTIVE_ONLY).found
    assert "the version and the champion measured again" in both


def test_the_command_measures_what_the_gates_lack(register, uri) -> None:
    """First the challenger, which lacks a figure; then the champion, whose protocol now differs."""
    from gan_core.metrics.assess import Assessment

    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    asked = []

    def measure(number: str) -> Assessment:
        asked.append(number)
        objective = fid(20.0 if number == "2" else 30.0)
        return Assessment(objective, (objective, other_figure("recall", 0.5)))

    gates = dataclasses.replace(OBJECTIVE_ONLY, max_recall_drop=0.05)
    assert check_gates("digits", tracking_uri=uri, gates=gates, measure=measure).blocking == []
    assert asked == ["2", "1"]
    assert promote("digits", tracking_uri=uri, gates=gates, measure=measure).version == "2"
