"""Moving the champion on a real registry: killed at every call, and by concurrent processes."""

import threading
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from gan_core.errors import TrackingError
from pipelines.commands import promote as cli
from pipelines.registry import champion as moving
from pipelines.registry import promote as promoting
from pipelines.registry.ledger import TAG_PREFIX, Outcome
from pipelines.registry.promote import load_ledger, promote, rollback, verify_ledger
from tests.pipelines.registry.conftest import artifacts, seal


class Killed(BaseException):
    """Simulates a kill; no code under test catches it."""


class Client:
    """A client that counts its calls and raises Killed before or after one of them."""

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
    """Shorten the wait for a move in progress."""
    monkeypatch.setattr(moving, "PENDING_TIMEOUT", 0.2)


@pytest.fixture
def kill(uri, client, monkeypatch):
    """Run an action with a client that kills it at the nth call; returns whether it was killed and the number of calls."""

    def call(action, at: int, after: bool) -> tuple[bool, int]:
        faulty = Client(client, at, after)
        with monkeypatch.context() as patch:
            patch.setattr(promoting, "connect", lambda uri, create: faulty)
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
    """Restore the entries and the champion of the registered model."""
    for name in client.get_registered_model("digits").tags:
        if name.startswith(TAG_PREFIX) and name not in tags:
            client.delete_registered_model_tag("digits", name)
    if version is None:
        client.delete_registered_model_alias("digits", "champion")
    else:
        client.set_registered_model_alias("digits", "champion", version)


def shown_as_made(uri: str) -> list[str | None]:
    ledger = load_ledger("digits", tracking_uri=uri)
    return [move.version for move in ledger.moves() if ledger.outcomes[move.id] is Outcome.MADE]


@pytest.mark.parametrize("earlier", [0, 1, 2], ids=["no champion", "one champion", "two champions"])
@pytest.mark.parametrize("action", [promote, rollback], ids=["promote", "rollback"])
def test_a_move_killed_at_any_call_is_not_shown_as_made_and_succeeds_when_repeated(
    register, client, uri, kill, action, earlier
):
    """Kills before each call, which is after the previous one, and after the last call."""
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
        # The ledger and the alias agree: the last move shown as made is the champion's.
        assert (shown_as_made(uri) or [None])[-1] == now
        if now == before:
            action("digits", tracking_uri=uri)
        assert champion(client) == wanted
        assert shown_as_made(uri)[-1] == wanted
        assert verify_ledger("digits", tracking_uri=uri).breaks == ()


def test_rollback_ignores_an_interrupted_promotion(register, client, uri, kill):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    register(10.0)
    _, calls = kill(promote, 100, False)
    rollback("digits", tracking_uri=uri)
    kill(promote, calls - 3, False)  # before the alias
    assert champion(client) == "2"
    assert rollback("digits", tracking_uri=uri).version == "1"


def test_a_deleted_champion_is_not_shown_as_interrupted(register, client, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    for fid in (30.0, 20.0):
        register(fid, stage_key=f"key-{fid}")
    promote("digits", tracking_uri=uri, version="1")
    client.delete_model_version("digits", "1")
    assert "its version was deleted later" in CliRunner().invoke(cli.ledger, ["digits"]).output
    (broken,) = verify_ledger("digits", tracking_uri=uri).breaks
    assert broken.startswith("The champion is none: version 1, which the last entry, Entry 1 (")
    move = promote("digits", tracking_uri=uri)
    assert (move.voids, move.reason) == ((), "there was no champion")
    assert verify_ledger("digits", tracking_uri=uri).breaks == ()


def test_a_rollback_to_a_deleted_version_says_what_to_do(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    client.delete_model_version("digits", "1")
    with pytest.raises(TrackingError, match=r"before version 2 was version 1, which was deleted.*--force --reason"):
        rollback("digits", tracking_uri=uri)
    assert champion(client) == "2"


def test_the_command_lists_an_interrupted_promotion_and_the_actual_champion(register, uri, kill, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    at = next(
        at for at in range(1, 100) if kill(promote, at, True)[0] and load_ledger("digits", tracking_uri=uri).entries
    )
    assert at > 1
    line, now = CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()
    assert "none -> 1" in line
    assert "in progress, interrupted, or undone outside gantry" in line
    assert now == "Champion now: none."
    result = CliRunner().invoke(cli.ledger, ["digits", "--verify"])
    assert isinstance(result.exception, TrackingError)
    assert "was not carried out, or was undone outside gantry: the champion is none, not version 1" in result.output
    assert "Run gantry promote again" in result.output


def test_promote_waits_for_a_move_in_progress_in_another_process(register, client, uri, monkeypatch):
    monkeypatch.setattr(moving, "PENDING_TIMEOUT", 60.0)
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(10.0)
    register(20.0)
    slow = load_ledger("digits", tracking_uri=uri).next_move("promote", version="2", reason="slow")
    client.set_registered_model_tag("digits", *moving.to_tag(slow))
    threading.Timer(0.5, client.set_registered_model_alias, ("digits", "champion", "2")).start()
    with pytest.raises(TrackingError, match="Version 3 .* is not better than the champion, version 2"):
        promote("digits", tracking_uri=uri)
    assert shown_as_made(uri) == ["1", "2"]


def test_promote_does_not_wait_for_an_old_pending_move(register, client, uri, monkeypatch):
    monkeypatch.setattr(moving, "PENDING_TIMEOUT", 600.0)
    monkeypatch.setattr(moving, "_MAX_PENDING_AGE_MS", 0)
    register(30.0)
    left = load_ledger("digits", tracking_uri=uri).next_move("promote", version="1", reason="killed")
    client.set_registered_model_tag("digits", *moving.to_tag(left))
    time.sleep(0.01)
    assert promote("digits", tracking_uri=uri).voids == (left.id,)


def test_a_move_that_another_process_voided_restores_the_champion(register, client, uri, monkeypatch):
    for fid in (30.0, 20.0, 10.0):
        register(fid)
    real = moving._set_alias

    def slow(of, name, version):
        if version == "2":  # another version is promoted while this move hangs
            monkeypatch.setattr(moving, "_set_alias", real)
            promote("digits", tracking_uri=uri, version="3")
        real(of, name, version)

    monkeypatch.setattr(moving, "_set_alias", slow)
    with pytest.raises(TrackingError, match="took so long that .* treated it as interrupted .*is version 3"):
        promote("digits", tracking_uri=uri, version="2")
    assert champion(client) == "3"
    assert verify_ledger("digits", tracking_uri=uri).breaks == ()


def test_concurrent_promotions_are_serialised(register, client, uri, monkeypatch):
    """Both write an entry with the same number at the same time; at most one of them moves the alias."""
    monkeypatch.setattr(moving, "PENDING_TIMEOUT", 30.0)
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

    monkeypatch.setattr(promoting, "connect", lambda uri, create: Meeting())
    threads = [threading.Thread(target=one, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    # If the better version was promoted first, the gate refuses the other.
    assert champion(client) == "3"
    assert shown_as_made(uri) == (["1", "3"] if refused else ["1", "2", "3"])
    assert all("is not better than the champion, version 3" in str(error) for error in refused)
    assert verify_ledger("digits", tracking_uri=uri).breaks == ()


def test_verify_compares_the_figures_in_the_files_of_versions(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    promote("digits", tracking_uri=uri)
    assert verify_ledger("digits", tracking_uri=uri).figures == 2
    client.set_model_version_tag("digits", "1", "gantry.value", "-5.0")
    (found,) = verify_ledger("digits", tracking_uri=uri).breaks
    assert "its tag gantry.value says '-5.0', metrics.json says '30.0'" in found
    path = artifacts(client, "1") / "metrics.json"
    path.write_text(path.read_text().replace("30.0", "3.0"))
    (found,) = verify_ledger("digits", tracking_uri=uri).breaks
    assert "the figures of version 1 are not those it was promoted by" in found
    client.delete_model_version("digits", "1")
    assert verify_ledger("digits", tracking_uri=uri).breaks == ()


def test_verify_detects_replaced_weights(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    weights = artifacts(client, "1") / "artifacts" / "generator" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (found,) = verify_ledger("digits", tracking_uri=uri).breaks
    assert "generator.safetensors is missing or damaged" in found
    assert "not those it was promoted by" not in found, "metrics.json is as it was"
    seal(client, "1")
    assert len(verify_ledger("digits", tracking_uri=uri).breaks) == 1


def test_the_command_verifies_and_prints_the_head(register, client, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri)
    result = CliRunner().invoke(cli.ledger, ["digits", "--verify"])
    assert result.exit_code == 0, result.output
    assert "1 entries, 1 of them in an unbroken chain. The champion is version 1, as in the ledger" in result.output
    head = load_ledger("digits", tracking_uri=uri).chain[-1].digest
    assert f"Head: {head}." in result.output
    assert CliRunner().invoke(cli.ledger, ["digits", "--verify", "--expect", head[:16]]).exit_code == 0
    result = CliRunner().invoke(cli.ledger, ["digits", "--verify", "--expect", "0" * 64])
    assert isinstance(result.exception, TrackingError)
    for name in client.get_registered_model("digits").tags:
        if name.startswith(TAG_PREFIX):
            client.set_registered_model_tag("digits", name, "[]\nrollback 1 -> none")
    result = CliRunner().invoke(cli.ledger, ["digits", "--verify", "--json"])
    assert isinstance(result.exception, TrackingError)
    assert result.exit_code != 0
    result = CliRunner().invoke(cli.ledger, ["digits"])
    assert result.exit_code == 0
    broken, now = result.output.splitlines()
    assert "is not a valid entry" in broken
    assert now == "Champion now: version 1."
    result = CliRunner().invoke(cli.ledger, ["digits", "--json"])
    assert result.stdout == "[]\n"
    assert "is not a valid entry" in result.stderr


def test_a_multi_line_reason_is_listed_in_one_line(register, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    register(30.0)
    promote("digits", tracking_uri=uri, reason="good\n2024-01-01T00:00:00.000Z  rollback  1 -> none  ann: forged")
    assert len(CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()) == 2
