"""The ledger is a hash chain of moves: outcomes, the next entry, and the promotion to undo. No server."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.errors import TrackingError
from pipelines.registry import ledger as ledgers
from pipelines.registry.ledger import (
    MAX_REASON_LENGTH,
    TAG_PREFIX,
    Ledger,
    Move,
    Outcome,
    check_reason,
    escape_nonprintable,
    read_ledger,
    to_tag,
)


class Registry:
    """An in-memory registry: tags and the alias."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {"gantry.other": "x"}
        self.champion: str | None = None

    def ledger(self) -> Ledger:
        return read_ledger(self.tags, self.champion)

    def move(self, kind: str = "promote", version: str | None = None, *, carry_out: bool = True, **more) -> Move:
        move = self.ledger().next_move(kind, version=version, reason="why", **more)
        self.write(move)
        if carry_out:
            self.champion = version
        return move

    def write(self, move: Move) -> None:
        name, value = to_tag(move)
        self.tags[name] = value

    def early(self, number: int, **values) -> Move:
        """Write an entry as versions of Gantry without a chain did."""
        move = Move(
            **{"kind": "promote", "version": "1", "previous": None, "at": "2024-01-01T00:00:00.000Z", "by": "ann"}
            | {"reason": "", "id": f"170406720000{number}-0123abcd"}
            | values
        )
        old = {k: v for k, v in dataclasses.asdict(move).items() if k not in ("number", "after", "voids", "metrics")}
        self.tags[TAG_PREFIX + move.id] = json.dumps(old)
        self.champion = move.version
        return move


def outcomes(ledger: Ledger) -> list[Outcome]:
    return [ledger.outcomes[move.id] for move in ledger.moves()]


def test_each_entry_has_a_number_and_the_digest_of_the_previous_entry() -> None:
    registry = Registry()
    for version in ("1", "2", "3"):
        registry.move(version=version)
    chain = registry.ledger().chain
    assert [entry.move.number for entry in chain] == [1, 2, 3]
    assert [entry.move.after for entry in chain[1:]] == [entry.digest for entry in chain[:-1]]
    assert all(entry.intact for entry in chain)
    assert outcomes(registry.ledger()) == [Outcome.MADE] * 3


def test_a_move_survives_the_round_trip_through_a_tag() -> None:
    registry = Registry()
    move = registry.move(version="1", forced=True, found="fid 1.0", within_noise=True, metrics="a" * 64)
    assert registry.ledger().moves() == [move]
    text = '\n"ü\u202e\ud800'
    registry.write(dataclasses.replace(move, reason=text))
    assert registry.ledger().moves()[0].reason == text


@pytest.mark.parametrize("earlier", [None, "1"], ids=["the first promotion", "a later one"])
def test_the_alias_tells_whether_the_last_move_is_pending_made_or_superseded(earlier: str | None) -> None:
    """A promotion killed before the alias moved is not shown as made."""
    registry = Registry()
    if earlier:
        registry.move(version=earlier)
    killed = registry.move(version="2", carry_out=False)
    assert outcomes(registry.ledger())[-1] is Outcome.PENDING
    assert registry.ledger().pending == killed
    registry.champion = "2"
    assert outcomes(registry.ledger())[-1] is Outcome.MADE
    registry.champion = "7"
    assert outcomes(registry.ledger())[-1] is Outcome.MOVED


@pytest.mark.parametrize("earlier", [None, "1"], ids=["the first champion", "a later one"])
def test_a_move_whose_version_was_deleted_is_neither_in_progress_nor_void(earlier: str | None) -> None:
    registry = Registry()
    if earlier:
        registry.move(version=earlier)
    registry.move(version="2")
    registry.champion = None  # by MLflow, with the version
    ledger = dataclasses.replace(registry.ledger(), deleted=frozenset("2"))
    assert outcomes(ledger)[-1] is Outcome.DELETED
    assert ledger.pending is None
    registry.write(ledger.next_move("promote", version="3", reason=""))
    registry.champion = "3"
    assert outcomes(registry.ledger())[-2:] == [Outcome.UNDONE, Outcome.MADE]


def test_the_next_entry_voids_a_pending_one() -> None:
    registry = Registry()
    registry.move(version="1")
    killed = registry.move(version="2", carry_out=False)
    after = registry.move(version="3")
    assert after.voids == (killed.id,)
    assert after.previous == "1"
    assert outcomes(registry.ledger()) == [Outcome.MADE, Outcome.INTERRUPTED, Outcome.MADE]
    assert registry.move(version="4").voids == ()


def test_of_two_entries_with_one_number_the_chain_holds_the_one_carried_out() -> None:
    registry = Registry()
    registry.move(version="1")
    before = registry.ledger()
    made, left = (before.next_move("promote", version=version, reason="") for version in ("2", "3"))
    for move in (left, made):
        registry.write(move)
    assert before.competing_moves(made) == []
    assert registry.ledger().competing_moves(made) == [left]
    registry.champion = "2"
    ledger = registry.ledger()
    assert [entry.move.id for entry in ledger.chain][1:] == [made.id]
    assert ledger.outcomes[left.id] is Outcome.INTERRUPTED
    after = registry.move(version="4")
    assert (after.voids, after.number) == ((left.id,), 3)
    assert registry.ledger().chain[1].move == made


def test_rollback_undoes_the_latest_promotion_that_was_made_and_not_undone() -> None:
    registry = Registry()
    first, second = registry.move(version="1"), registry.move(version="2")
    registry.move(version="3", carry_out=False)
    assert registry.ledger().promotion_to_undo() == second
    registry.move("rollback", version="1", undoes=second.id, carry_out=False)
    assert registry.ledger().promotion_to_undo() == second
    registry.move("rollback", version="1", undoes=second.id)
    assert registry.ledger().promotion_to_undo() == first
    registry.champion = "3"
    assert registry.ledger().promotion_to_undo() is None


def test_a_modified_promotion_cannot_be_rolled_back() -> None:
    registry = Registry()
    for version in ("1", "2"):
        move = registry.move(version=version)
    name = TAG_PREFIX + move.id
    registry.tags[name] = registry.tags[name].replace('"previous": "1"', '"previous": "9"')
    with pytest.raises(TrackingError, match=r"Entry 2 \(.*cannot be trusted.*--version V --force"):
        registry.ledger().promotion_to_undo()


def test_legacy_entries_are_read_and_the_first_entry_of_the_chain_holds_their_digest() -> None:
    registry = Registry()
    old = [registry.early(1), registry.early(2, version="2", previous="1")]
    assert registry.ledger().moves() == old
    assert outcomes(registry.ledger()) == [Outcome.MADE, Outcome.MADE]
    assert registry.ledger().promotion_to_undo() == old[1]
    first = registry.move(version="3")
    assert first.number == 1
    assert not registry.ledger().legacy_changed
    registry.early(1, reason="another")
    registry.champion = "2"
    assert registry.ledger().legacy_changed
    with pytest.raises(TrackingError, match="cannot be trusted"):
        registry.ledger().promotion_to_undo()


def test_an_entry_without_a_number_newer_than_the_chain_is_ignored() -> None:
    registry = Registry()
    move = registry.move(version="1")
    registry.move(version="2")
    forged = registry.early(1, version="2", previous="9", id="9" + move.id[1:])
    assert registry.ledger().outcomes[forged.id] is Outcome.OUTSIDE
    undo = registry.ledger().promotion_to_undo()
    assert undo is not None
    assert undo.previous == "1"
    assert registry.move(version="3").number == 3


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "brackets": "[" * 100_000,
    "a number of many digits": "1" * 10_000,
    "a kind that there is not": '{"kind": "steal", "id": "%s"}',
    "no version": '{"kind": "promote", "id": "%s"}',
    "a version that is a number": '{"kind": "promote", "version": 1, "previous": null, "at": "", "by": "", "reason": "", '
    '"id": "%s"}',
    "another entry's id": '{"kind": "promote", "version": "1", "previous": null, "at": "", "by": "", "reason": "", '
    '"id": "1704067200009-0123abcd"}',
    "a negative number": '{"kind": "promote", "version": "1", "previous": null, "at": "", "by": "", "reason": "", '
    '"number": -1, "id": "%s"}',
}


@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_tag_is_reported_and_ignored(bad: str) -> None:
    registry = Registry()
    move = registry.move(version="1")
    identity = "1704067200001-0123abcd"
    registry.tags[TAG_PREFIX + identity] = BAD[bad].replace("%s", identity)
    ledger = registry.ledger()
    assert [one.id for one in ledger.unreadable] == [identity]
    assert ledger.moves() == [move]
    assert ledger.promotion_to_undo() == move
    assert registry.move(version="2").number == 2


def test_an_id_without_a_time_is_not_an_entry() -> None:
    registry = Registry()
    registry.early(1, id="junk")
    assert [one.id for one in registry.ledger().unreadable] == ["junk"]


def test_unknown_fields_are_ignored_but_covered_by_the_digest() -> None:
    registry = Registry()
    move = registry.move(version="1")
    content = {k: v for k, v in json.loads(registry.tags[TAG_PREFIX + move.id]).items() if k != "digest"} | {"new": 1}
    digest = ledgers.sha256_json(content)
    registry.tags[TAG_PREFIX + move.id] = json.dumps(content | {"digest": digest})
    (entry,) = registry.ledger().entries
    assert (entry.intact, entry.digest) == (True, digest)


def test_entries_stay_in_order_if_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    first = registry.move(version="1")
    now = ledgers.time.time_ns()
    monkeypatch.setattr(ledgers.time, "time_ns", lambda: now - 3_600_000_000_000)
    second = registry.move(version="2")
    assert second.at > first.at
    assert second.id > first.id


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", " a  b "])
def test_a_reason_is_joined_to_one_line(text: str) -> None:
    assert check_reason(text) == "a b"


def test_invalid_utf8_in_a_reason_is_escaped() -> None:
    assert check_reason("caf\udce9") == "caf\\udce9"


def test_a_reason_that_is_too_long_is_refused() -> None:
    assert check_reason("x" * MAX_REASON_LENGTH) is not None
    with pytest.raises(TrackingError, match="--reason has 1001 characters; the limit is 1000"):
        check_reason("x" * (MAX_REASON_LENGTH + 1))


def test_control_characters_are_escaped() -> None:
    assert escape_nonprintable("a\nb\x1b[2Kc\u202ed ü") == "a\\nb\\x1b[2Kc\\u202ed ü"


# Properties that hold for any sequence of moves

_STEPS = st.lists(st.tuples(st.sampled_from("1234"), st.booleans()), min_size=1, max_size=8)


def played(steps: list[tuple[str, bool]]) -> tuple[Registry, list[tuple[Move, bool]]]:
    """Promote each version that is not champion yet; a move is carried out or killed before the alias moves."""
    registry, made = Registry(), []
    for version, carried_out in steps:
        if version != registry.champion:
            made.append((registry.move(version=version, carry_out=carried_out), carried_out))
    return registry, made


@given(steps=_STEPS)
def test_the_chain_holds_every_move_and_its_outcome(steps: list[tuple[str, bool]]) -> None:
    registry, made = played(steps)
    ledger = registry.ledger()
    assert [entry.move for entry in ledger.chain] == [move for move, _ in made]
    assert [entry.move.number for entry in ledger.chain] == list(range(1, len(made) + 1))
    assert all(later.move.after == entry.digest for entry, later in itertools.pairwise(ledger.chain))
    assert not (ledger.orphans)
    assert not (ledger.unreadable)
    assert not (ledger.legacy_changed)
    for at, (move, carried_out) in enumerate(made, start=1):
        killed = Outcome.PENDING if at == len(made) else Outcome.INTERRUPTED
        assert ledger.outcomes[move.id] is (Outcome.MADE if carried_out else killed)
    undo, carried = ledger.promotion_to_undo(), [move for move, carried_out in made if carried_out]
    assert undo == (carried[-1] if carried else None)


@given(steps=_STEPS, data=st.data())
def test_a_modified_entry_is_detected_at_any_position(steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    registry, made = played(steps)
    at = data.draw(st.integers(0, len(made) - 1))
    move = made[at][0]
    name, value = to_tag(move)
    field, other = data.draw(
        st.sampled_from(
            [("version", "9"), ("previous", "9"), ("by", "eve"), ("reason", "x"), ("forced", True), ("metrics", "b")]
        )
    )
    registry.tags[name] = json.dumps({**json.loads(value), field: other})
    assert not registry.ledger().chain[at].intact
    # With a matching digest, the next entry reveals it.
    registry.write(dataclasses.replace(move, **{field: other}))
    chain = registry.ledger().chain
    assert chain[at].intact
    assert at == len(made) - 1 or chain[at + 1].move.after != chain[at].digest


@given(
    names=st.lists(st.text(max_size=20) | st.just("1704067200000-0123abcd"), max_size=4),
    value=st.text(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5).map(json.dumps),
)
def test_every_tag_is_read_as_an_entry_or_reported_as_invalid(names: list[str], value: str) -> None:
    registry = Registry()
    registry.move(version="1")
    registry.tags |= {TAG_PREFIX + name: value for name in names}
    ledger = registry.ledger()
    assert len(ledger.entries) + len(ledger.unreadable) == 1 + len(set(names))
    assert all(one.why for one in ledger.unreadable)
    assert len(ledger.outcomes) == len(ledger.entries)
