"""The ledger's entries form a chain: what became of each, what comes next, and what to undo. No server."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.errors import TrackingError
from pipelines.registry import ledger as ledgers
from pipelines.registry.ledger import (
    LONGEST_REASON,
    PREFIX,
    Ledger,
    Move,
    Outcome,
    as_tag,
    check_reason,
    in_one_line,
    read_ledger,
)


class Registry:
    """Tags and alias, moved as a server's are."""

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
        name, value = as_tag(move)
        self.tags[name] = value

    def early(self, number: int, **values) -> Move:
        """An entry as editions without a chain wrote them."""
        move = Move(
            **{"kind": "promote", "version": "1", "previous": None, "at": "2024-01-01T00:00:00.000Z", "by": "ann"}
            | {"reason": "", "id": f"170406720000{number}-0123abcd"}
            | values
        )
        old = {k: v for k, v in dataclasses.asdict(move).items() if k not in ("number", "after", "voids", "metrics")}
        self.tags[PREFIX + move.id] = json.dumps(old)
        self.champion = move.version
        return move


def outcomes(ledger: Ledger) -> list[Outcome]:
    return [ledger.outcomes[move.id] for move in ledger.moves()]


def test_each_entry_names_its_number_and_the_digest_of_the_one_before() -> None:
    registry = Registry()
    for version in ("1", "2", "3"):
        registry.move(version=version)
    chain = registry.ledger().chain
    assert [entry.move.number for entry in chain] == [1, 2, 3]
    assert [entry.move.after for entry in chain[1:]] == [entry.digest for entry in chain[:-1]]
    assert all(entry.intact for entry in chain)
    assert outcomes(registry.ledger()) == [Outcome.MADE] * 3


def test_what_is_read_is_what_was_written() -> None:
    registry = Registry()
    move = registry.move(version="1", forced=True, found="fid 1.0", within_noise=True, metrics="a" * 64)
    assert registry.ledger().moves() == [move]
    text = '\n"ü\u202e\ud800'
    registry.write(dataclasses.replace(move, reason=text))
    assert registry.ledger().moves()[0].reason == text


@pytest.mark.parametrize("earlier", [None, "1"], ids=["the first promotion", "a later one"])
def test_no_champion_and_another_champion_are_both_known_from_the_alias(earlier: str | None) -> None:
    """A promotion that was killed before the alias is not shown as made."""
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


def test_the_next_entry_says_that_the_one_before_it_is_void() -> None:
    registry = Registry()
    registry.move(version="1")
    killed = registry.move(version="2", carry_out=False)
    after = registry.move(version="3")
    assert after.voids == (killed.id,)
    assert after.previous == "1"
    assert outcomes(registry.ledger()) == [Outcome.MADE, Outcome.CUT_SHORT, Outcome.MADE]
    assert registry.move(version="4").voids == ()


def test_of_two_entries_of_one_number_the_one_that_was_carried_out_is_in_the_chain() -> None:
    registry = Registry()
    registry.move(version="1")
    before = registry.ledger()
    made, left = (before.next_move("promote", version=version, reason="") for version in ("2", "3"))
    for move in (left, made):
        registry.write(move)
    assert before.rivals(made) == []
    assert registry.ledger().rivals(made) == [left]
    registry.champion = "2"
    ledger = registry.ledger()
    assert [entry.move.id for entry in ledger.chain][1:] == [made.id]
    assert ledger.outcomes[left.id] is Outcome.CUT_SHORT
    after = registry.move(version="4")
    assert (after.voids, after.number) == ((left.id,), 3)
    assert registry.ledger().chain[1].move == made


def test_a_rollback_undoes_the_last_promotion_that_was_made_and_not_undone() -> None:
    registry = Registry()
    first, second = registry.move(version="1"), registry.move(version="2")
    registry.move(version="3", carry_out=False)
    assert registry.ledger().to_undo() == second
    registry.move("rollback", version="1", undoes=second.id, carry_out=False)
    assert registry.ledger().to_undo() == second
    registry.move("rollback", version="1", undoes=second.id)
    assert registry.ledger().to_undo() == first
    registry.champion = "3"
    assert registry.ledger().to_undo() is None


def test_a_promotion_that_was_rewritten_does_not_say_where_to_go_back_to() -> None:
    registry = Registry()
    for version in ("1", "2"):
        move = registry.move(version=version)
    name = PREFIX + move.id
    registry.tags[name] = registry.tags[name].replace('"previous": "1"', '"previous": "9"')
    with pytest.raises(TrackingError, match=r"Entry 2 \(.*cannot be trusted.*--version V --force"):
        registry.ledger().to_undo()


def test_entries_from_before_the_chain_are_read_and_anchored_by_its_first_entry() -> None:
    registry = Registry()
    old = [registry.early(1), registry.early(2, version="2", previous="1")]
    assert registry.ledger().moves() == old
    assert outcomes(registry.ledger()) == [Outcome.MADE, Outcome.MADE]
    assert registry.ledger().to_undo() == old[1]
    first = registry.move(version="3")
    assert first.number == 1
    assert not registry.ledger().early_changed
    registry.early(1, reason="another")
    registry.champion = "2"
    assert registry.ledger().early_changed
    with pytest.raises(TrackingError, match="cannot be trusted"):
        registry.ledger().to_undo()


def test_an_entry_without_a_number_that_is_younger_than_the_chain_decides_nothing() -> None:
    registry = Registry()
    move = registry.move(version="1")
    registry.move(version="2")
    forged = registry.early(1, version="2", previous="9", id="9" + move.id[1:])
    assert registry.ledger().outcomes[forged.id] is Outcome.OUTSIDE
    undo = registry.ledger().to_undo()
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
def test_a_tag_that_holds_no_entry_is_named_and_stops_nothing(bad: str) -> None:
    registry = Registry()
    move = registry.move(version="1")
    identity = "1704067200001-0123abcd"
    registry.tags[PREFIX + identity] = BAD[bad].replace("%s", identity)
    ledger = registry.ledger()
    assert [one.id for one in ledger.unreadable] == [identity]
    assert ledger.moves() == [move]
    assert ledger.to_undo() == move
    assert registry.move(version="2").number == 2


def test_an_id_that_is_no_time_is_no_entry() -> None:
    registry = Registry()
    registry.early(1, id="junk")
    assert [one.id for one in registry.ledger().unreadable] == ["junk"]


def test_what_a_later_edition_adds_is_passed_over_and_covered_by_the_digest() -> None:
    registry = Registry()
    move = registry.move(version="1")
    content = {k: v for k, v in json.loads(registry.tags[PREFIX + move.id]).items() if k != "digest"} | {"new": 1}
    digest = ledgers.sha256_json(content)
    registry.tags[PREFIX + move.id] = json.dumps(content | {"digest": digest})
    (entry,) = registry.ledger().entries
    assert (entry.intact, entry.digest) == (True, digest)


def test_entries_go_forward_in_time_where_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    first = registry.move(version="1")
    now = ledgers.time.time_ns()
    monkeypatch.setattr(ledgers.time, "time_ns", lambda: now - 3_600_000_000_000)
    second = registry.move(version="2")
    assert second.at > first.at
    assert second.id > first.id


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\u2028b", " a  b "])
def test_a_reason_is_one_line(text: str) -> None:
    assert check_reason(text) == "a b"


def test_a_reason_of_bytes_that_are_no_text_is_spelled_out() -> None:
    assert check_reason("caf\udce9") == "caf\\udce9"


def test_a_reason_that_is_too_long_is_refused() -> None:
    assert check_reason("x" * LONGEST_REASON) is not None
    with pytest.raises(TrackingError, match="--reason has 1001 characters; the ledger keeps 1000"):
        check_reason("x" * (LONGEST_REASON + 1))


def test_a_listing_obeys_no_control_character() -> None:
    assert in_one_line("a\nb\x1b[2Kc\u202ed ü") == "a\\nb\\x1b[2Kc\\u202ed ü"


# Whatever happens, in any order

_STEPS = st.lists(st.tuples(st.sampled_from("1234"), st.booleans()), min_size=1, max_size=8)


def played(steps: list[tuple[str, bool]]) -> tuple[Registry, list[tuple[Move, bool]]]:
    """Promotions to each version that is not champion then, carried out or killed before the alias."""
    registry, made = Registry(), []
    for version, carried_out in steps:
        if version != registry.champion:
            made.append((registry.move(version=version, carry_out=carried_out), carried_out))
    return registry, made


@given(steps=_STEPS)
def test_the_chain_holds_every_move_and_says_which_were_carried_out(steps: list[tuple[str, bool]]) -> None:
    registry, made = played(steps)
    ledger = registry.ledger()
    assert [entry.move for entry in ledger.chain] == [move for move, _ in made]
    assert [entry.move.number for entry in ledger.chain] == list(range(1, len(made) + 1))
    assert all(later.move.after == entry.digest for entry, later in itertools.pairwise(ledger.chain))
    assert not (ledger.strays)
    assert not (ledger.unreadable)
    assert not (ledger.early_changed)
    for at, (move, carried_out) in enumerate(made, start=1):
        killed = Outcome.PENDING if at == len(made) else Outcome.CUT_SHORT
        assert ledger.outcomes[move.id] is (Outcome.MADE if carried_out else killed)
    undo, carried = ledger.to_undo(), [move for move, carried_out in made if carried_out]
    assert undo == (carried[-1] if carried else None)


@given(steps=_STEPS, data=st.data())
def test_a_rewritten_entry_shows_wherever_it_was_rewritten(steps: list[tuple[str, bool]], data: st.DataObject) -> None:
    registry, made = played(steps)
    at = data.draw(st.integers(0, len(made) - 1))
    move = made[at][0]
    name, value = as_tag(move)
    field, other = data.draw(
        st.sampled_from(
            [("version", "9"), ("previous", "9"), ("by", "eve"), ("reason", "x"), ("forced", True), ("metrics", "b")]
        )
    )
    registry.tags[name] = json.dumps({**json.loads(value), field: other})
    assert not registry.ledger().chain[at].intact
    # With a digest that fits it shows in the entry that follows.
    registry.write(dataclasses.replace(move, **{field: other}))
    chain = registry.ledger().chain
    assert chain[at].intact
    assert at == len(made) - 1 or chain[at + 1].move.after != chain[at].digest


@given(
    names=st.lists(st.text(max_size=20) | st.just("1704067200000-0123abcd"), max_size=4),
    value=st.text(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5).map(json.dumps),
)
def test_any_tag_is_an_entry_or_named_as_none(names: list[str], value: str) -> None:
    registry = Registry()
    registry.move(version="1")
    registry.tags |= {PREFIX + name: value for name in names}
    ledger = registry.ledger()
    assert len(ledger.entries) + len(ledger.unreadable) == 1 + len(set(names))
    assert all(one.why for one in ledger.unreadable)
    assert len(ledger.outcomes) == len(ledger.entries)
