"""Verification detects every change to an entry, the alias or the figures short of a forged chain. No server."""

import json

import pytest

from gan_core.errors import SettingsError
from pipelines.registry.ledger import TAG_PREFIX, Move
from pipelines.registry.verify import Evidence, Report, promoted_versions, verify
from tests.pipelines.registry.test_ledger import Registry

METRICS = {version: version * 64 for version in "123"}


@pytest.fixture
def registry() -> Registry:
    """Three promotions, one a second."""
    registry = Registry()
    for version in "123":
        registry.move(version=version, metrics=METRICS[version])
    return registry


def check(registry: Registry, **more) -> Report:
    evidence = {version: Evidence(metrics=digest) for version, digest in METRICS.items()}
    return verify(registry.ledger(), evidence, **more)


def rewrite(registry: Registry, number: int, **values) -> None:
    """Change an entry and leave the digest stored with it."""
    name = TAG_PREFIX + move(registry, number).id
    registry.tags[name] = json.dumps(json.loads(registry.tags[name]) | values)


def move(registry: Registry, number: int) -> Move:
    return next(one for one in registry.ledger().moves() if one.number == number)


def test_an_unmodified_ledger_has_no_breaks(registry: Registry) -> None:
    report = check(registry)
    assert report.breaks == ()
    assert (report.entries, report.chained, report.champion, report.figures) == (3, 3, "3", 3)
    assert report.head == registry.ledger().chain[-1].digest
    assert promoted_versions(registry.ledger()) == ["1", "2", "3"]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "values",
    [{"reason": "another"}, {"by": "eve"}, {"at": "2001-01-01T00:00:00.000Z"}, {"metrics": "0" * 64}, {"new": 1}],
    ids=lambda values: next(iter(values)),
)
def test_a_modified_entry_is_the_first_break(registry: Registry, number: int, values: dict) -> None:
    rewrite(registry, number, **values)
    first = check(registry).breaks[0]
    assert first.startswith(f"Entry {number} (")
    assert "was changed after it was written" in first


@pytest.mark.parametrize("number", [1, 2])
def test_an_entry_modified_with_its_digest_breaks_the_next_entry(registry: Registry, number: int) -> None:
    changed = move(registry, number)
    registry.write(Move(**{**vars(changed), "reason": "another"}))
    assert check(registry).breaks[0].startswith(f"Entry {number + 1} (")
    assert f"Entry {number} ({changed.id}) was changed, added or removed" in check(registry).breaks[0]


def test_the_last_entry_modified_with_its_digest_is_detected_by_the_expected_head(registry: Registry) -> None:
    """The chain itself cannot reveal this."""
    head = check(registry).head
    assert check(registry, expected=head).breaks == ()
    last = move(registry, 3)
    registry.write(Move(**{**vars(last), "reason": "another"}))
    assert check(registry).breaks == ()
    (found,) = check(registry, expected=head).breaks
    assert f"No entry of the chain has the digest {head}" in found


@pytest.mark.parametrize("expected", ["", "0a1b2c3", "none", "0A1B2C3D4"])
def test_an_expected_head_that_proves_nothing_is_refused(registry: Registry, expected: str) -> None:
    """An unset shell variable would otherwise count as a check that found nothing."""
    with pytest.raises(SettingsError, match=r"--expect is '.*at least its first 8 digits.*shell variable"):
        check(registry, expected=expected)


def test_an_earlier_head_is_still_in_the_chain_after_more_moves(registry: Registry) -> None:
    head = check(registry).head[:12]
    registry.move("rollback", version="2", undoes=move(registry, 3).id)
    assert check(registry, expected=head).breaks == ()


@pytest.mark.parametrize(("number", "gone"), [(1, "entry 1 is"), (2, "entry 2 is")])
def test_a_deleted_entry_is_reported(registry: Registry, number: int, gone: str) -> None:
    del registry.tags[TAG_PREFIX + move(registry, number).id]
    assert f"{gone} missing before it" in check(registry).breaks[0]


def test_a_deleted_last_entry_contradicts_the_champion(registry: Registry) -> None:
    del registry.tags[TAG_PREFIX + move(registry, 3).id]
    (found,) = check(registry).breaks
    assert found.startswith("The champion is version 3, but the last entry, Entry 2")
    assert found.endswith("names version 2")


def test_a_champion_without_any_entry_is_a_break(registry: Registry) -> None:
    registry.tags.clear()
    assert check(registry).breaks == ("The champion is version 3, but the ledger has no promotion",)
    registry.champion = None
    assert check(registry).breaks == ()


def test_an_inserted_entry_is_a_break(registry: Registry) -> None:
    second = move(registry, 2)
    registry.write(Move(**{**vars(second), "version": "9", "id": second.id[:-4] + "0000"}))
    assert any("is not in the chain: another entry has its number" in found for found in check(registry).breaks)


@pytest.mark.parametrize("at", ["2001-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z", "yesterday"])
def test_an_entry_with_a_wrong_date_is_a_break(registry: Registry, at: str) -> None:
    forged = registry.ledger().next_move("promote", version="4", reason="", metrics="")
    registry.write(Move(**{**vars(forged), "at": at}))
    registry.champion = "4"
    assert any(f"is dated {at}" in found for found in check(registry).breaks)


def test_an_alias_moved_by_hand_is_a_break(registry: Registry) -> None:
    registry.champion = "1"
    assert check(registry).breaks[0].startswith("The champion is version 1, but the last entry")
    registry.champion = None
    assert check(registry).breaks[0].startswith("The champion is none, but the last entry")


def test_an_interrupted_move_is_reported_with_the_remedy(registry: Registry) -> None:
    registry.move(version="1", carry_out=False)
    (found,) = check(registry).breaks
    assert found.startswith("Entry 4 (")
    assert found.endswith(
        "was not carried out, or was undone outside gantry: the champion is version 3, not version 1. Run gantry promote again"
    )
    registry.move(version="2")
    assert check(registry).breaks == ()


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (Evidence(metrics="f" * 64), "metrics.json was replaced"),
        (Evidence(metrics=None, why="its files are gone"), "its files are gone"),
        (Evidence(metrics=METRICS["2"], why="its tag gantry.value says '-5.0'"), "its tag gantry.value says '-5.0'"),
    ],
    ids=["another figure", "no files", "another tag"],
)
def test_changed_figures_of_a_promoted_version_are_a_break(registry: Registry, evidence: Evidence, words: str) -> None:
    found = verify(registry.ledger(), {v: Evidence(metrics=d) for v, d in METRICS.items()} | {"2": evidence})
    (broken,) = found.breaks
    assert broken.startswith("Entry 2 (")
    assert words in broken
    assert found.figures == 2


def test_a_deleted_version_is_noted_as_not_compared(registry: Registry) -> None:
    evidence = {v: Evidence(metrics=d) for v, d in METRICS.items()} | {"1": Evidence(metrics=None, gone=True)}
    found = verify(registry.ledger(), evidence)
    assert (found.breaks, found.figures) == ((), 2)
    assert "version 1 was deleted, so its figures cannot be compared" in found.notes[0]


def test_an_invalid_tag_is_a_break(registry: Registry) -> None:
    registry.tags[f"{TAG_PREFIX}junk"] = "[]"
    assert check(registry).breaks[0].startswith("The tag gantry.ledger.junk is not a valid entry")


def test_changes_to_legacy_entries_are_detected_once_a_chain_exists() -> None:
    registry = Registry()
    registry.early(1)
    assert check(registry).breaks == ()
    assert any("there is no chain yet" in note for note in check(registry).notes)
    first = registry.move(version="2")
    report = check(registry)
    assert report.breaks == ()
    assert report.chain_from == f"Entry 1 ({first.id})"
    note = f"Changes made to them before that cannot be detected; the chain begins with {report.chain_from}"
    assert f"Entries from before the chain: 1. {note}" in report.notes
    registry.early(1, reason="another")
    registry.champion = "2"
    assert "an entry from before the chain was changed, added or removed" in check(registry).breaks[0]


def test_a_legacy_entry_newer_than_the_chain_is_a_break(registry: Registry) -> None:
    young = registry.early(1, version="3", id="9" + move(registry, 1).id[1:])
    assert check(registry).breaks == (f"Entry {young.id} is newer than the start of the chain but not part of it",)
