"""Moving the champion on a real registry: killed at every call to it, and by two at once."""

import threading
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from gan_core.errors import TrackingError
from pipelines.commands import promote as cli
from pipelines.registry import champion as moving
from pipelines.registry import promote as promoting
from pipelines.registry.ledger import PREFIX, Outcome
from pipelines.registry.promote import check_ledger, history, promote, rollback
from tests.pipelines.registry.conftest import artifacts, seal


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


class Client:
    """A client that counts its calls and does something at one of them."""

    def __init__(self, client: MlflowClient, at: int, after: bool) -> None:
        self._client, self._at, self._after = client, at, after
        self.calls = 0

    def __getattr__(self, name: str):
        call = getattr(self._client, name)

        def counted(*arguments, **named):
            self.calls += 1
            if self.calls == self._at and not self._after:
                raise Killed(name)
            answer = call(*arguments, **named)
            if self.calls == self._at:
                raise Killed(name)
            return answer

        return counted


@pytest.fixture
def client(uri):
    return MlflowClient(uri, uri)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Who finds a move in progress waits no longer than a test can."""
    monkeypatch.setattr(moving, "PATIENCE", 0.2)


@pytest.fixture
def kill(uri, client, monkeypatch):
    """Call something with a client that kills at its nth call; whether it came so far, and how many calls it made."""

    def call(action, at: int, after: bool) -> tuple[bool, int]:
        faulty = Client(client, at, after)
        with monkeypatch.context() as patch:
            patch.setattr(promoting, "connect", lambda uri, make: faulty)
            try:
                action("digits", tracking_uri=uri)
            except Killed:
                return True, faulty.calls
        return False, faulty.calls

    return call


def champion(client: MlflowClient) -> str | None:
    version = client.get_registered_model("digits").aliases.get("champion")
    return str(version) if version else None


def reset(client: MlflowClient, tags: dict[str, str], version: str | None) -> None:
    """Give the registered model these entries and this champion again."""
    for name in client.get_registered_model("digits").tags:
        if name.startswith(PREFIX) and name not in tags:
            client.delete_registered_model_tag("digits", name)
    if version is None:
        client.delete_registered_model_alias("digits", "champion")
    else:
        client.set_registered_model_alias("digits", "champion", version)


def shown_as_made(uri: str) -> list[str | None]:
    ledger = history("digits", tracking_uri=uri)
    return [move.version for move in ledger.moves() if ledger.outcomes[move.id] is Outcome.MADE]


@pytest.mark.parametrize("earlier", [0, 1, 2], ids=["no champion", "one champion", "two champions"])
@pytest.mark.parametrize("action", [promote, rollback], ids=["promote", "rollback"])
def test_a_move_killed_at_any_call_is_not_shown_as_made_and_is_made_by_the_next(
    register, client, uri, kill, action, earlier
):
    """Before each call, which is after the one before it, and after the last."""
    if action is rollback and not earlier:
        pytest.skip("there is nothing to roll back")
    for fid in (30.0, 20.0)[:earlier]:
        register(fid)
        promote("digits", tracking_uri=uri)
    register(10.0)
    tags, before = client.get_registered_model("digits").tags, champion(client)
    wanted = str(earlier + 1) if action is promote else {1: None, 2: "1"}[earlier]
    reset(client, tags, before)
    _, calls = kill(action, 0, False)
    assert calls >= 5  # read, write, read again, move, look
    for at, after in [*((at, False) for at in range(1, calls + 1)), (calls, True)]:
        reset(client, tags, before)
        assert kill(action, at, after) == (True, at)
        now = champion(client)
        assert now in (before, wanted)
        # The ledger and the alias agree: what is shown as made last is the champion.
        assert (shown_as_made(uri) or [None])[-1] == now
        if now == before:
            action("digits", tracking_uri=uri)
        assert champion(client) == wanted
        assert shown_as_made(uri)[-1] == wanted
        assert check_ledger("digits", tracking_uri=uri).breaks == ()


def test_a_promotion_cut_short_does_not_mislead_a_rollback(register, client, uri, kill):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    register(10.0)
    _, calls = kill(promote, 100, False)
    rollback("digits", tracking_uri=uri)
    kill(promote, calls - 1, False)  # before the alias
    assert champion(client) == "2"
    assert rollback("digits", tracking_uri=uri).version == "1"


def test_the_command_says_what_was_cut_short_and_that_it_is_not_the_champion(register, uri, kill, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    at = next(at for at in range(1, 100) if kill(promote, at, True)[0] and history("digits", tracking_uri=uri).entries)
    assert at > 1
    line, now = CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()
    assert "none -> 1" in line
    assert "in progress or cut short" in line
    assert now == "Champion now: none."
    told = CliRunner().invoke(cli.ledger, ["digits", "--verify"])
    assert isinstance(told.exception, TrackingError)
    assert "is not carried out: the champion is still none, not version 1. Run gantry promote again" in told.output


def test_a_move_that_another_process_is_about_is_waited_for(register, client, uri, monkeypatch):
    monkeypatch.setattr(moving, "PATIENCE", 60.0)
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(10.0)
    register(20.0)
    slow = history("digits", tracking_uri=uri).next_move("promote", version="2", reason="slow")
    client.set_registered_model_tag("digits", *moving.as_tag(slow))
    threading.Timer(0.5, client.set_registered_model_alias, ("digits", "champion", "2")).start()
    with pytest.raises(TrackingError, match="Version 3 .* is not better than the champion, version 2"):
        promote("digits", tracking_uri=uri)
    assert shown_as_made(uri) == ["1", "2"]


def test_an_old_move_that_was_not_made_is_not_waited_for(register, client, uri, monkeypatch):
    monkeypatch.setattr(moving, "PATIENCE", 600.0)
    monkeypatch.setattr(moving, "_YOUNG_MS", 0)
    register(30.0)
    left = history("digits", tracking_uri=uri).next_move("promote", version="1", reason="killed")
    client.set_registered_model_tag("digits", *moving.as_tag(left))
    time.sleep(0.01)
    assert promote("digits", tracking_uri=uri).voids == (left.id,)


def test_who_is_so_slow_that_others_take_the_move_for_void_puts_the_champion_back(register, client, uri, monkeypatch):
    for fid in (30.0, 20.0, 10.0):
        register(fid)
    real = moving._set_alias

    def slow(of, name, version):
        if version == "2":  # while it hangs, another one is promoted
            monkeypatch.setattr(moving, "_set_alias", real)
            promote("digits", tracking_uri=uri, version="3")
        real(of, name, version)

    monkeypatch.setattr(moving, "_set_alias", slow)
    with pytest.raises(TrackingError, match="took so long that .* took it for cut short .*is version 3"):
        promote("digits", tracking_uri=uri, version="2")
    assert champion(client) == "3"
    assert check_ledger("digits", tracking_uri=uri).breaks == ()


def test_two_promotions_at_once_are_made_one_after_the_other(register, client, uri, monkeypatch):
    """Both write their entry at the same moment, with the same number: at most one of them goes on."""
    monkeypatch.setattr(moving, "PATIENCE", 30.0)
    for fid in (30.0, 20.0, 10.0):
        register(fid)
    promote("digits", tracking_uri=uri, version="1")
    meet, met = threading.Barrier(2), threading.local()
    refused: list[TrackingError] = []

    class Meeting:
        def __init__(self) -> None:
            self._client = MlflowClient(uri, uri)

        def __getattr__(self, name: str):
            def call(*arguments, **named):
                if name == "set_registered_model_tag" and not hasattr(met, "once"):
                    met.once = True
                    meet.wait(30)
                return getattr(self._client, name)(*arguments, **named)

            return call

    def one(version: str) -> None:
        try:
            promote("digits", tracking_uri=uri, version=version)
        except TrackingError as error:
            refused.append(error)

    monkeypatch.setattr(promoting, "connect", lambda uri, make: Meeting())
    threads = [threading.Thread(target=one, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    # Where the better one was first, the other one is refused by the gate.
    assert champion(client) == "3"
    assert shown_as_made(uri) == (["1", "3"] if refused else ["1", "2", "3"])
    assert all("is not better than the champion, version 3" in str(error) for error in refused)
    assert check_ledger("digits", tracking_uri=uri).breaks == ()


def test_verify_reads_the_figures_in_the_versions_files(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    promote("digits", tracking_uri=uri)
    assert check_ledger("digits", tracking_uri=uri).figures == 2
    client.set_model_version_tag("digits", "1", "gantry.value", "-5.0")
    (found,) = check_ledger("digits", tracking_uri=uri).breaks
    assert "its tag gantry.value says '-5.0', metrics.json says '30.0'" in found
    path = artifacts(client, "1") / "metrics.json"
    path.write_text(path.read_text().replace("30.0", "3.0"))
    (found,) = check_ledger("digits", tracking_uri=uri).breaks
    assert "the figures of version 1 are not those it was promoted by" in found
    client.delete_model_version("digits", "1")
    assert check_ledger("digits", tracking_uri=uri).breaks == ()


def test_verify_sees_weights_that_were_exchanged(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    weights = artifacts(client, "1") / "artifacts" / "generator" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (found,) = check_ledger("digits", tracking_uri=uri).breaks
    assert "generator.safetensors is missing or damaged" in found
    seal(client, "1")
    assert len(check_ledger("digits", tracking_uri=uri).breaks) == 1


def test_the_command_verifies_and_prints_the_head(register, client, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri)
    told = CliRunner().invoke(cli.ledger, ["digits", "--verify"])
    assert told.exit_code == 0, told.output
    assert "1 entries, 1 of them in an unbroken chain; champion version 1, as the ledger says" in told.output
    head = history("digits", tracking_uri=uri).chain[-1].digest
    assert f"Head: {head}." in told.output
    assert CliRunner().invoke(cli.ledger, ["digits", "--verify", "--expect", head[:16]]).exit_code == 0
    told = CliRunner().invoke(cli.ledger, ["digits", "--verify", "--expect", "0" * 64])
    assert isinstance(told.exception, TrackingError)
    for name in client.get_registered_model("digits").tags:
        if name.startswith(PREFIX):
            client.set_registered_model_tag("digits", name, "[]\nrollback 1 -> none")
    told = CliRunner().invoke(cli.ledger, ["digits", "--verify", "--json"])
    assert isinstance(told.exception, TrackingError)
    assert told.exit_code != 0
    told = CliRunner().invoke(cli.ledger, ["digits"])
    assert told.exit_code == 0
    broken, now = told.output.splitlines()
    assert "holds no entry" in broken
    assert now == "Champion now: version 1."


def test_a_reason_makes_one_line_of_the_listing(register, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri, reason="good\n2024-01-01T00:00:00.000Z  rollback  1 -> none  ann: forged")
    assert len(CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()) == 2
