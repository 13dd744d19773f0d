"""The event log loses at most the current line, whatever is written and wherever a writer is killed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_core.locks import locked
from pipelines.tracking.events import EVENTS, append_event, count_events, find_logs, log_folder, read_events

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)
_EVENTS = st.builds(
    lambda kind, time, values: {"kind": kind, "time": time, "values": values},
    st.sampled_from(["metrics", "params", "tags", "open", "finish"]),
    st.integers(0, 2**53),
    _VALUES,
)
_KEYS = st.from_regex(r"[A-Za-z0-9_.:/=+-]{1,200}", fullmatch=True)


def written(folder: Path, events: list[dict[str, Any]]) -> None:
    """Append ``events`` as a writer does."""
    descriptor = os.open(folder / EVENTS, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        with locked(descriptor):
            for event in events:
                append_event(descriptor, event)
    finally:
        os.close(descriptor)


@given(events=st.lists(_EVENTS, max_size=8))
def test_events_are_read_in_order_and_from_any_offset(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    written(folder, events)
    if not events:
        return
    read = list(read_events(folder))
    assert [event for event, _ in read] == events
    assert count_events(folder) == len(events)
    for number, (_, offset) in enumerate(read, start=1):
        assert [event for event, _ in read_events(folder, offset)] == events[number:]
        assert count_events(folder, offset) == len(events) - number


@given(
    events=st.lists(_EVENTS, min_size=1, max_size=5), later=st.lists(_EVENTS, min_size=1, max_size=3), data=st.data()
)
def test_a_writer_killed_at_any_byte_loses_only_the_current_line(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[dict[str, Any]],
    later: list[dict[str, Any]],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    written(folder, events)
    whole = (folder / EVENTS).read_bytes()
    killed_at = data.draw(st.integers(0, len(whole)))
    (folder / EVENTS).write_bytes(whole[:killed_at])
    complete = whole[:killed_at].count(b"\n")
    assert [event for event, _ in read_events(folder)] == events[:complete]
    written(folder, later)
    kept = [event for event, _ in read_events(folder) if event is not None]
    # A line that lacks only its end is not lost: the next writer ends it.
    unfinished = whole[:killed_at].rpartition(b"\n")[2]
    saved = [events[complete]] if unfinished and unfinished == json_of(events[complete]) else []
    assert kept == [*events[:complete], *saved, *later]


def json_of(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


@given(
    content=st.binary(max_size=300)
    | st.lists(st.sampled_from([b"{", b"}", b"\n", b"null", b'{"kind":1}']), max_size=20).map(b"".join)
)
def test_any_bytes_are_read_as_events_or_skipped(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / EVENTS).write_bytes(content)
    read = list(read_events(folder))
    assert len(read) == content.count(b"\n") == count_events(folder)
    assert all(event is None or isinstance(event["kind"], str) for event, _ in read)


def test_text_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    written(tmp_path, [{"kind": "params", "time": 1, "values": {name: [f"{name} \\ \u00e9"]}}])
    [(event, _)] = read_events(tmp_path)
    assert event is not None
    assert event["values"] == {"caf\\udce9.png": ["caf\\udce9.png \\ \u00e9"]}
    json.dumps(event, ensure_ascii=False).encode()  # as a client sends it


@given(keys=st.lists(_KEYS, min_size=1, max_size=4, unique=True))
def test_each_key_has_its_own_folder(keys: list[str]) -> None:
    folders = [log_folder("var/log", key) for key in keys]
    assert len(set(folders)) == len(keys)
    for folder in folders:
        assert folder.parent == Path("var/log")
        assert folder.name not in (".", "..")
        assert len(folder.name.encode()) <= 255


def test_a_log_is_found_at_any_depth(tmp_path: Path) -> None:
    for place in ("a", "b/c", "b/d/e"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / EVENTS).touch()
    assert find_logs(tmp_path) == [tmp_path / "a", tmp_path / "b/c", tmp_path / "b/d/e"]
