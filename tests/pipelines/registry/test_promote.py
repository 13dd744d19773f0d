"""Promotion: only what is better by the same protocol becomes champion, every move is kept, and it can be undone."""

import dataclasses
import json
import threading

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from gan_core.errors import TrackingError
from gan_core.metrics.protocol import Figure
from pipelines.registry import cli
from pipelines.registry import promote as promoting
from pipelines.registry.promote import history, promote, rollback
from tests.pipelines.registry.conftest import PROTOCOL


@pytest.fixture
def client(uri):
    return MlflowClient(uri, uri)


def champion(client: MlflowClient) -> str | None:
    version = client.get_registered_model("digits").aliases.get("champion")
    return str(version) if version else None


def test_the_first_challenger_becomes_champion(register, client, uri):
    register(30.0)
    move = promote("digits", tracking_uri=uri)
    assert (move.version, move.previous, move.forced) == ("1", None, False)
    assert champion(client) == "1"
    assert promote("digits", tracking_uri=uri) is None  # it is champion already
    assert len(history("digits", tracking_uri=uri)) == 1


def test_a_lower_fid_by_the_same_protocol_is_promoted(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(25.0)
    move = promote("digits", tracking_uri=uri)
    assert (move.version, move.previous) == ("2", "1")
    assert "25.0000 against 30.0000" in move.reason
    assert champion(client) == "2"


@pytest.mark.parametrize("fid", [30.0, 31.0, float("nan")])
def test_a_fid_that_is_not_lower_is_not_promoted(register, client, uri, fid):
    register(30.0, stage_key="first")
    promote("digits", tracking_uri=uri)
    second = register(31.0, stage_key="second").version
    # Registering refuses what is no number; an earlier edition did not.
    client.set_model_version_tag("digits", second, "gantry.value", repr(fid))
    with pytest.raises(TrackingError, match=r"not better than the champion.*against 30\.0000.*--force --reason"):
        promote("digits", tracking_uri=uri)
    assert champion(client) == "1"
    assert len(history("digits", tracking_uri=uri)) == 1


def test_whether_a_lower_fid_is_lower_by_more_than_noise_is_kept(register, client, uri):
    """And stops nobody, whatever reason is given beside it."""
    register(30.0, interval=(28.0, 33.0))
    first = promote("digits", tracking_uri=uri)
    assert (first.found, first.within_noise) == ("", None)
    register(29.0, interval=(27.0, 32.0))
    within = promote("digits", tracking_uri=uri, reason="it looks better")
    assert within.within_noise is True
    assert within.reason == "it looks better"
    assert within.found == (
        "fid 29.0000 against 30.0000 by the same protocol; lower, but within the noise: the 95 % intervals 27.0000 to "
        "32.0000 and 28.0000 to 33.0000 overlap"
    )
    register(20.0, interval=(19.0, 21.0))
    clear = promote("digits", tracking_uri=uri)
    assert clear.within_noise is False
    assert clear.reason == clear.found == "fid 20.0000 against 29.0000 by the same protocol, lower by more than noise"
    register(10.0)  # by an edition that kept no intervals
    unknown = promote("digits", tracking_uri=uri)
    assert unknown.within_noise is None
    assert "noise" not in unknown.found
    assert history("digits", tracking_uri=uri) == [first, within, clear, unknown]
    assert champion(client) == "4"


def test_a_ledger_that_an_earlier_edition_wrote_is_read(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    ((tag, entry),) = ((k, v) for k, v in client.get_registered_model("digits").tags.items() if "ledger" in k)
    old = {name: value for name, value in json.loads(entry).items() if name not in ("found", "within_noise")}
    client.set_registered_model_tag("digits", tag, json.dumps(old))
    assert rollback("digits", tracking_uri=uri).version is None


def test_another_protocol_is_refused_and_each_difference_named(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(5.0, protocol={"fake_count": 50, "precision": "bf16"})
    with pytest.raises(TrackingError) as raised:
        promote("digits", tracking_uri=uri)
    assert "fake_count: 50 against 1000" in str(raised.value)
    assert "precision: bf16 against fp32" in str(raised.value)
    assert "real_count" not in str(raised.value)
    assert champion(client) == "1"


GROWN = {"dataset_digest": "a" * 64}
"""How a challenger is measured that learnt from data which has grown since."""


def measured(**changes) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, **GROWN)
    return Figure(**{"name": "fid", "value": 25.0, "protocol": protocol, "generator_digest": "f" * 64, **changes})


def test_a_champion_of_earlier_data_is_measured_anew_where_that_is_asked_for(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN, interval=(19.0, 21.0))
    with pytest.raises(TrackingError, match="gantry promote digits --version 2 --measure"):
        promote("digits", tracking_uri=uri)
    asked = []
    move = promote(
        "digits", tracking_uri=uri, measure=lambda version: asked.append(version) or measured(low=24, high=26)
    )
    assert asked == ["1"]
    assert champion(client) == "2"
    assert move.found == (
        "fid 20.0000 against 25.0000 by the same protocol, the champion measured anew, lower by more than noise"
    )


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (measured(value=15.0), "is not better than the champion"),
        (measured(protocol=PROTOCOL), r"What is measured here \(data/prepared, evaluate in params.yaml\) is not what"),
        (measured(name="mean_fid"), "figure: fid against mean_fid"),
    ],
    ids=["better", "other-data", "other-figure"],
)
def test_a_champion_measured_anew_has_to_be_beaten_by_the_same_protocol_all_the_same(
    register, client, uri, figure, message
):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN)
    with pytest.raises(TrackingError, match=message):
        promote("digits", tracking_uri=uri, measure=lambda version: figure)
    assert champion(client) == "1"


def test_a_champion_of_the_time_that_measuring_takes_is_not_run_over(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN)
    register(5.0, stage_key="meanwhile", protocol=GROWN)

    def measure(version):
        promote("digits", tracking_uri=uri, version="3", force=True, reason="meanwhile")
        return measured()

    with pytest.raises(TrackingError, match="Version 2 .* is not better than the champion, version 3"):
        promote("digits", tracking_uri=uri, version="2", measure=measure)
    assert champion(client) == "3"


def test_a_champion_without_a_figure_is_measured_where_that_is_asked_for(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    client.delete_model_version_tag("digits", "1", "gantry.value")
    register(20.0, protocol=GROWN)
    with pytest.raises(TrackingError, match="carries no measured figure .*gantry promote digits --version 2 --measure"):
        promote("digits", tracking_uri=uri)
    assert promote("digits", tracking_uri=uri, measure=lambda version: measured()).version == "2"


def test_a_champion_whose_figure_compares_is_not_measured_again(register, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri, measure=lambda version: pytest.fail("it was measured"))


def test_force_passes_the_gates_with_a_reason_only(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(99.0)
    with pytest.raises(TrackingError, match="needs a reason"):
        promote("digits", tracking_uri=uri, force=True, reason="  ")
    move = promote("digits", tracking_uri=uri, force=True, reason="the old one copies")
    assert champion(client) == "2"
    assert (move.forced, move.reason) == (True, "the old one copies")
    assert history("digits", tracking_uri=uri)[-1] == move


def test_rollback_undoes_move_after_move_down_to_no_champion(register, client, uri):
    for fid in (30.0, 20.0, 10.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    for expected in ("2", "1", None):
        move = rollback("digits", tracking_uri=uri)
        assert move.version == expected
        assert champion(client) == expected
    with pytest.raises(TrackingError, match="no champion to roll back"):
        rollback("digits", tracking_uri=uri)
    kinds = [(move.kind, move.version) for move in history("digits", tracking_uri=uri)]
    assert kinds == [
        ("promote", "1"),
        ("promote", "2"),
        ("promote", "3"),
        ("rollback", "2"),
        ("rollback", "1"),
        ("rollback", None),
    ]


def test_what_was_rolled_back_can_be_promoted_and_rolled_back_again(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    rollback("digits", tracking_uri=uri)
    promote("digits", tracking_uri=uri)
    assert champion(client) == "2"
    rollback("digits", tracking_uri=uri)
    assert champion(client) == "1"


def test_a_champion_set_by_hand_is_not_guessed_about(register, client, uri):
    register(30.0)
    client.set_registered_model_alias("digits", "champion", "1")
    with pytest.raises(TrackingError, match="without `gantry promote`"):
        rollback("digits", tracking_uri=uri)


def test_a_move_cut_short_does_not_mislead_a_rollback(register, client, uri, monkeypatch):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    register(10.0)

    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    # Killed between the ledger and the alias.
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KilledError):
            promote("digits", tracking_uri=uri)
    assert champion(client) == "2"
    assert rollback("digits", tracking_uri=uri).version == "1"


@pytest.mark.parametrize("versions", [1, 2])
def test_a_rollback_that_was_cut_short_is_done_again(register, client, uri, monkeypatch, versions):
    for fid in (30.0, 20.0)[:versions]:
        register(fid)
        promote("digits", tracking_uri=uri)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        patch.setattr(MlflowClient, "delete_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            rollback("digits", tracking_uri=uri)
    assert champion(client) == str(versions)
    assert rollback("digits", tracking_uri=uri).version == (None if versions == 1 else "1")
    assert champion(client) == (None if versions == 1 else "1")


def test_two_promotions_at_once_both_stand_in_the_ledger(register, client, uri, monkeypatch):
    for fid in (30.0, 20.0, 10.0):
        register(fid)
    promote("digits", tracking_uri=uri, version="1")
    meet, real = threading.Barrier(2), promoting._carry_out

    def together(*arguments):
        meet.wait(30)
        real(*arguments)

    monkeypatch.setattr(promoting, "_carry_out", together)
    threads = [
        threading.Thread(target=promote, args=("digits",), kwargs={"tracking_uri": uri, "version": version})
        for version in ("2", "3")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    assert {move.version for move in history("digits", tracking_uri=uri)} == {"1", "2", "3"}
    assert champion(client) in ("2", "3")
    assert rollback("digits", tracking_uri=uri).version == "1"


def test_what_is_not_there_is_named(register, client, uri):
    with pytest.raises(TrackingError, match=r"no registered model 'digits'.*register\.name"):
        promote("digits", tracking_uri=uri)
    register(30.0)
    with pytest.raises(TrackingError, match="no version 7; it has 1"):
        promote("digits", tracking_uri=uri, version="7")
    with pytest.raises(TrackingError, match="no champion to roll back"):
        rollback("digits", tracking_uri=uri)
    client.delete_registered_model_alias("digits", "challenger")
    with pytest.raises(TrackingError, match="no challenger"):
        promote("digits", tracking_uri=uri)


def test_a_version_without_a_figure_needs_force(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    client.create_model_version("digits", source=client.get_model_version("digits", "1").source)
    with pytest.raises(TrackingError, match="carries no measured figure"):
        promote("digits", tracking_uri=uri, version="2")
    assert promote("digits", tracking_uri=uri, version="2", force=True, reason="imported").version == "2"


def test_a_protocol_of_another_edition_is_not_compared(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    protocol = json.loads(client.get_model_version("digits", "1").tags["gantry.protocol"])
    client.set_model_version_tag("digits", "1", "gantry.protocol", json.dumps({**protocol, "new": 1}))
    with pytest.raises(TrackingError, match="another edition of Gantry"):
        promote("digits", tracking_uri=uri)


def test_the_command_line_promotes_and_rolls_back(register, uri, monkeypatch):
    from pipelines.settings import load_settings

    register(30.0)
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    assert load_settings().track.uri == uri
    told = CliRunner().invoke(cli.promote, ["digits", "--json"])
    assert json.loads(told.output)["move"]["version"] == "1"
    told = CliRunner().invoke(cli.promote, ["digits"])
    assert "champion already" in told.output
    told = CliRunner().invoke(cli.rollback, ["digits", "--reason", "wrong data"])
    assert told.output == "digits: champion is now no version, was version 1 (wrong data).\n"
    first, second = CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()
    assert "promote   none -> 1" in first
    assert "rollback  1 -> none" in second
    assert second.endswith("wrong data")
    told = CliRunner().invoke(cli.ledger, ["digits", "--json"]).output
    assert [move["kind"] for move in json.loads(told)] == ["promote", "rollback"]


def test_the_command_line_tells_what_is_within_the_noise(register, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    for fid in (30.0, 29.0, 28.0):
        register(fid, interval=(fid - 3, fid + 3))
        told = CliRunner().invoke(cli.promote, ["digits", *(["--reason", "nicer"] if fid == 28 else [])]).output
        assert told.count("within the noise") == (fid < 30), told
    assert "was version 2 (nicer).\nMeasured: fid 28.0000 against 29.0000" in told
