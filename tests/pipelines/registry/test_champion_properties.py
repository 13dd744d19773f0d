"""Whatever promotions, rollbacks, kills and concurrent promotions happen, the ledger explains the champion.

A scheduler runs up to three processes on an in-memory registry, one call at a time, in an order that hypothesis chooses.
"""

import contextlib
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gan_core.errors import TrackingError
from pipelines.registry import champion as moving
from pipelines.registry import promote as promoting
from pipelines.registry.gate import Comparison
from pipelines.registry.ledger import Ledger, Outcome, read_ledger
from pipelines.registry.measured import Measured
from pipelines.registry.verify import verify


class Killed(BaseException):
    """Simulates a kill; no code under test catches it."""


@dataclass
class Registry:
    """Tags and aliases of one registered model, and a clock that advances when a process sleeps."""

    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    now: float = 0.0

    def ledger(self) -> Ledger:
        return read_ledger(self.tags, self.aliases.get("champion"))

    def get_registered_model(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(tags=dict(self.tags), aliases=dict(self.aliases))

    def set_registered_model_tag(self, name: str, tag: str, value: str) -> None:
        self.tags[tag] = value

    def delete_registered_model_tag(self, name: str, tag: str) -> None:
        self.tags.pop(tag, None)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[alias] = version

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.aliases.pop(alias, None)

    def get_model_version(self, name: str, version: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(name=name, version=version, description="")

    def update_model_version(self, name: str, version: str, description: str) -> None:
        pass


@dataclass(frozen=True)
class Action:
    """A command, and the call before which its process is killed; 0: it is not killed."""

    version: str
    """Version to promote; empty for a rollback."""
    killed_at: int = 0


class Process:
    """A command in a thread that waits before each call to the registry until the scheduler lets it go on."""

    _own = threading.local()

    def __init__(self, registry: Registry, action: Action) -> None:
        self._registry, self._action, self._calls = registry, action, 0
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._waits.acquire()

    def step(self) -> None:
        """Let the process make its next call, up to the one after."""
        self._go.release()
        self._waits.acquire()
        if self.ended:
            self._thread.join()

    @classmethod
    def current(cls) -> "Process":
        return cls._own.process

    def __getattr__(self, name: str) -> Callable:
        """A call of the client."""
        call = getattr(self._registry, name)

        def wait_and_call(*arguments):
            self.pause()
            self._calls += 1
            if self._calls == self._action.killed_at:
                raise Killed
            return call(*arguments)

        return wait_and_call

    def pause(self, seconds: float = 0.0) -> None:
        self._waits.release()
        self._go.acquire()
        self._registry.now += seconds

    def _run(self) -> None:
        Process._own.process = self
        self.pause()
        try:
            if self._action.version:
                promoting.promote("m", tracking_uri="sqlite://", version=self._action.version)
            else:
                promoting.rollback("m", tracking_uri="sqlite://")
        except Killed:
            pass
        except Exception as error:
            self.error = error
        self.ended = True
        self._waits.release()


def run(registry: Registry, actions: list[Action], order: Iterator[int]) -> None:
    """Run the actions at the same time, in the given order of calls; then one after the other."""
    running = [Process(registry, action) for action in actions]
    begun = list(running)
    while running:
        process = running[next(order, 0) % len(running)]
        process.step()
        running = [process for process in running if not process.ended]
    for process in begun:
        assert process.error is None or isinstance(process.error, TrackingError), process.error


@pytest.fixture
def world(monkeypatch):
    """The registry commands run against in-memory registries, and time passes only when a process sleeps."""
    clock = types.SimpleNamespace(
        monotonic=lambda: Process.current()._registry.now,
        time=lambda: 0.0,
        sleep=lambda seconds: Process.current().pause(seconds),
    )
    monkeypatch.setattr(moving, "time", clock)
    monkeypatch.setattr(moving, "PENDING_TIMEOUT", 0.35)
    monkeypatch.setattr(promoting, "connect", lambda uri, create: Process.current())
    monkeypatch.setattr(promoting, "version_files", lambda version, uri: contextlib.nullcontext())

    def compare(client, name, challenger, champion, *rest) -> Comparison:
        measured = Measured(name=name, version=challenger.version, objective=None)
        return Comparison(challenger=measured, champion=None, verdicts=())

    monkeypatch.setattr(promoting, "_compare", compare)


ACTIONS = st.builds(Action, st.sampled_from(["1", "2", "3", ""]), st.integers(0, 12))
PHASES = st.lists(st.lists(ACTIONS, min_size=1, max_size=3), min_size=1, max_size=3)


@pytest.mark.usefixtures("world")
@settings(max_examples=300)
# The second process treats the first, which hangs before it moves the alias, as interrupted; the first is killed right after.
@example([[Action("1")], [Action("2", killed_at=7), Action("3")]], [0] * 13 + [1] * 40)
@given(PHASES, st.lists(st.integers(0, 2), max_size=60))
def test_the_ledger_explains_the_champion(phases: list[list[Action]], order: list[int]) -> None:
    registry, chosen = Registry(), iter(order)
    for actions in phases:
        run(registry, actions, chosen)
        ledger = registry.ledger()
        made = [move.version for move in ledger.moves() if ledger.outcomes[move.id] is Outcome.MADE]
        late = [move.version for move in ledger.moves() if ledger.outcomes[move.id] is Outcome.LATE]
        assert ledger.champion == [None, *made, *late][-1]
        assert Outcome.MOVED not in ledger.outcomes.values()
        # A killed process leaves its entry, or the alias that it has just moved. Nothing else differs from the chain.
        explained = ("was not carried out", "was made late")
        assert all(any(word in broken for word in explained) for broken in verify(ledger, {}).breaks)
    run(registry, [Action("4")], iter(()))
    assert registry.aliases["champion"] == "4"
    assert verify(registry.ledger(), {}).breaks == ()
