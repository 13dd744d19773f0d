"""Only a version that is better under the same protocol becomes champion; each move is recorded and can be undone."""

import dataclasses
import json
import shutil

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gan_core.errors import CheckpointError, TrackingError
from gan_core.metrics.assess import Assessment
from gan_core.metrics.protocol import Figure
from pipelines.commands import promote as cli
from pipelines.registry.ledger import Move
from pipelines.registry.promote import load_ledger, promote, rollback, verify_ledger
from tests.pipelines.registry.conftest import PROTOCOL, artifacts, refigure, seal


@pytest.fixture
def client(uri):
    return MlflowClient(uri, uri)


def moves(uri: str) -> list[Move]:
    return load_ledger("digits", tracking_uri=uri).moves()


def champion(client: MlflowClient) -> str | None:
    version = client.get_registered_model("digits").aliases.get("champion")
    return str(version) if version else None


def test_the_first_challenger_becomes_champion(register, client, uri):
    register(30.0)
    move = promote("digits", tracking_uri=uri)
    assert (move.version, move.previous, move.forced) == ("1", None, False)
    assert champion(client) == "1"
    assert promote("digits", tracking_uri=uri) is None  # already champion
    assert len(moves(uri)) == 1


def test_a_lower_fid_by_the_same_protocol_is_promoted(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(25.0)
    move = promote("digits", tracking_uri=uri)
    assert (move.version, move.previous) == ("2", "1")
    assert "25.0000 against 30.0000" in move.reason
    assert champion(client) == "2"


@pytest.mark.parametrize("fid", [30.0, 31.0])
def test_a_fid_that_is_not_lower_is_not_promoted(register, client, uri, fid):
    register(30.0, stage_key="first")
    promote("digits", tracking_uri=uri)
    register(fid, stage_key="second")
    with pytest.raises(TrackingError, match=r"not better than the champion.*against 30\.0000.*--force --reason"):
        promote("digits", tracking_uri=uri)
    assert champion(client) == "1"
    assert len(moves(uri)) == 1


@pytest.mark.parametrize("tag", ["-5.0", "abc", "nan", ""])
def test_the_gate_reads_figures_from_files_and_ignores_tags(register, client, uri, tag):
    register(30.0)
    promote("digits", tracking_uri=uri)
    second = register(31.0).version
    client.set_model_version_tag("digits", second, "gantry.value", tag)
    with pytest.raises(TrackingError, match=r"fid 31\.0000 against 30\.0000"):
        promote("digits", tracking_uri=uri)


FIGURES = {
    "no number": (lambda fid: fid.update(value=float("nan")), r"fid\.value: expected a finite number, got nan"),
    "infinity": (lambda fid: fid.update(value=float("-inf")), r"fid\.value: expected a finite number, got -inf"),
    "text": (lambda fid: fid.update(value="abc"), r"fid\.value: expected a finite number, got 'abc'"),
    "no protocol": (lambda fid: fid.pop("protocol"), r"Missing setting 'fid\.protocol'"),
    "an interval without an end": (lambda fid: fid.update(low=float("inf")), r"fid\.low"),
    "another generator's": (lambda fid: fid.update(generator_digest="a" * 64), "was measured on another generator"),
    "a later edition's": (lambda fid: fid["protocol"].update(new=1), r"Unknown setting 'fid\.protocol\.new'"),
}


@pytest.mark.parametrize("which", ["1", "2"], ids=["the champion's", "the challenger's"])
@pytest.mark.parametrize("harm", FIGURES)
def test_an_invalid_figure_is_refused(register, client, uri, harm, which):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    change, said = FIGURES[harm]
    refigure(client, which, change)
    with pytest.raises(TrackingError, match=rf"(?i)version {which} .*{said}.*--measure"):
        promote("digits", tracking_uri=uri)
    assert champion(client) == "1"
    assert promote("digits", tracking_uri=uri, force=True, reason="seen").version == "2"


def test_the_first_champion_needs_a_figure(register, client, uri):
    register(30.0)
    refigure(client, "1", lambda fid: fid.update(value=float("nan")))
    with pytest.raises(TrackingError, match="expected a finite number"):
        promote("digits", tracking_uri=uri)
    assert promote("digits", tracking_uri=uri, measure=lambda version: assessment(measured())).version == "1"


def test_a_version_without_metrics_is_measured_on_request(register, client, uri):
    """A version from an older version of Gantry, with its figure only in tags and without checksums."""
    for fid in (30.0, 20.0):
        register(fid)
    promote("digits", tracking_uri=uri, version="1")
    for name in ("metrics.json", "gantry-manifest.json"):
        (artifacts(client, "2") / name).unlink()
    client.delete_model_version_tag("digits", "2", "gantry.manifest")
    with pytest.raises(TrackingError, match=r"Version 2 of 'digits' has no metrics\.json, .*--version 2 --measure"):
        promote("digits", tracking_uri=uri)
    figure = measured(value=10.0, protocol=PROTOCOL)
    assert promote("digits", tracking_uri=uri, measure=lambda version: assessment(figure)).version == "2"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("file", ["metrics.json", "MLmodel", "artifacts/generator/generator.json", "code/torch.py"])
def test_a_version_with_changed_files_is_not_promoted(register, client, uri, file, force):
    register(30.0)
    path = artifacts(client, "1") / file
    path.write_text((path.read_text() if path.exists() else "") + " ")
    with pytest.raises(
        CheckpointError, match=rf"{file} was (changed|added)\. The folder differs from what was registered"
    ):
        promote("digits", tracking_uri=uri, force=force, reason="wanted")
    assert champion(client) is None


def test_the_ledger_records_whether_an_improvement_exceeds_the_noise(register, client, uri):
    """An improvement within the noise is promoted too, with any reason."""
    register(30.0, interval=(28.0, 33.0))
    first = promote("digits", tracking_uri=uri)
    assert (first.found, first.within_noise) == ("", None)
    register(29.0, interval=(27.0, 32.0))
    within = promote("digits", tracking_uri=uri, reason="it looks better")
    assert within.within_noise is True
    assert within.reason == "it looks better"
    assert within.found == (
        "fid 29.0000 against 30.0000 under the same protocol; lower, but within the noise: the 95 % intervals 27.0000 to "
        "32.0000 and 28.0000 to 33.0000 overlap"
    )
    register(20.0, interval=(19.0, 21.0))
    clear = promote("digits", tracking_uri=uri)
    assert clear.within_noise is False
    assert (
        clear.reason
        == clear.found
        == "fid 20.0000 against 29.0000 under the same protocol, lower by more than the noise"
    )
    register(10.0)  # by a version of Gantry without intervals
    unknown = promote("digits", tracking_uri=uri)
    assert unknown.within_noise is None
    assert "noise" not in unknown.found
    assert moves(uri) == [first, within, clear, unknown]
    assert champion(client) == "4"


def test_another_protocol_is_refused_and_each_difference_is_named(register, client, uri):
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
"""Change of the protocol of a challenger that was trained on more data than the champion."""


def measured(**changes) -> Figure:
    protocol = dataclasses.replace(PROTOCOL, **GROWN)
    return Figure(**{"name": "fid", "value": 25.0, "protocol": protocol, "generator_digest": "f" * 64, **changes})


def assessment(*figures: Figure) -> Assessment:
    return Assessment(figures[0], figures)


def test_a_champion_from_earlier_data_is_measured_again_on_request(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN, interval=(19.0, 21.0))
    with pytest.raises(TrackingError, match="gantry promote digits --version 2 --measure"):
        promote("digits", tracking_uri=uri)
    asked = []
    move = promote(
        "digits",
        tracking_uri=uri,
        measure=lambda version: asked.append(version) or assessment(measured(low=24, high=26)),
    )
    assert asked == ["1"]
    assert champion(client) == "2"
    assert move.found == (
        "fid 20.0000 against 25.0000 under the same protocol, the champion measured again, lower by more than the noise"
    )


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (measured(value=15.0), "is not better than the champion"),
        (measured(protocol=PROTOCOL), r"data or settings of this checkout \(data/prepared, evaluate in params.yaml\)"),
        (measured(name="mean_fid"), "figure: fid against mean_fid"),
    ],
    ids=["better", "other-data", "other-figure"],
)
def test_a_champion_measured_again_must_be_beaten_by_the_same_protocol(register, client, uri, figure, message):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN)
    with pytest.raises(TrackingError, match=message):
        promote("digits", tracking_uri=uri, measure=lambda version: assessment(figure))
    assert champion(client) == "1"


def test_a_champion_promoted_during_the_measurement_is_not_replaced_by_a_worse_version(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    register(20.0, protocol=GROWN)
    register(5.0, stage_key="meanwhile", protocol=GROWN)

    def measure(version):
        promote("digits", tracking_uri=uri, version="3", force=True, reason="meanwhile")
        return assessment(measured())

    with pytest.raises(TrackingError, match="Version 2 .* is not better than the champion, version 3"):
        promote("digits", tracking_uri=uri, version="2", measure=measure)
    assert champion(client) == "3"


def test_a_champion_without_a_figure_is_measured_on_request(register, client, uri):
    register(10.0)
    promote("digits", tracking_uri=uri)
    (artifacts(client, "1") / "metrics.json").unlink()
    seal(client, "1")
    register(20.0, protocol=GROWN)
    with pytest.raises(
        TrackingError, match="no figure that can be checked.*gantry promote digits --version 2 --measure"
    ):
        promote("digits", tracking_uri=uri)
    assert promote("digits", tracking_uri=uri, measure=lambda version: assessment(measured())).version == "2"


def test_a_champion_with_a_comparable_figure_is_not_measured_again(register, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri, measure=lambda version: pytest.fail("it was measured"))


def test_force_skips_the_gate_but_needs_a_reason(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(99.0)
    with pytest.raises(TrackingError, match="needs a reason"):
        promote("digits", tracking_uri=uri, force=True, reason="  ")
    move = promote("digits", tracking_uri=uri, force=True, reason="the old one copies")
    assert champion(client) == "2"
    assert (move.forced, move.reason) == (True, "the old one copies")
    assert moves(uri)[-1] == move


def test_repeated_rollback_undoes_all_promotions(register, client, uri):
    for fid in (30.0, 20.0, 10.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    for expected in ("2", "1", None):
        move = rollback("digits", tracking_uri=uri)
        assert move.version == expected
        assert champion(client) == expected
    with pytest.raises(TrackingError, match="no champion to roll back"):
        rollback("digits", tracking_uri=uri)
    kinds = [(move.kind, move.version) for move in moves(uri)]
    assert kinds == [
        ("promote", "1"),
        ("promote", "2"),
        ("promote", "3"),
        ("rollback", "2"),
        ("rollback", "1"),
        ("rollback", None),
    ]


def test_a_deleted_champion_is_named_by_rollback(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    client.delete_model_version("digits", "2")
    with pytest.raises(TrackingError, match=r"version 2, was deleted.*gantry promote --version V"):
        rollback("digits", tracking_uri=uri)
    promote("digits", tracking_uri=uri, version="1")
    assert champion(client) == "1"


def test_a_version_can_be_promoted_and_rolled_back_again(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    rollback("digits", tracking_uri=uri)
    promote("digits", tracking_uri=uri)
    assert champion(client) == "2"
    rollback("digits", tracking_uri=uri)
    assert champion(client) == "1"


def test_a_champion_set_by_hand_cannot_be_rolled_back(register, client, uri):
    register(30.0)
    client.set_registered_model_alias("digits", "champion", "1")
    with pytest.raises(TrackingError, match="without `gantry promote`"):
        rollback("digits", tracking_uri=uri)


def test_missing_models_versions_and_aliases_are_named(register, client, uri):
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


def test_a_version_without_a_figure_needs_force(register, client, uri, tmp_path):
    register(30.0)
    promote("digits", tracking_uri=uri)
    folder = artifacts(client, "1")
    shutil.copytree(folder, tmp_path / "imported")
    for name in ("metrics.json", "gantry-manifest.json"):
        (tmp_path / "imported" / name).unlink()
    client.create_model_version("digits", source=(tmp_path / "imported").as_uri())
    with pytest.raises(TrackingError, match="no figure that can be checked"):
        promote("digits", tracking_uri=uri, version="2")
    assert promote("digits", tracking_uri=uri, version="2", force=True, reason="imported").version == "2"


def test_the_command_line_promotes_and_rolls_back(register, uri, monkeypatch):
    from pipelines.settings.schema import load_settings

    register(30.0, more={"memorisation": 0.1})
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    assert load_settings().track.uri == uri
    result = CliRunner().invoke(cli.promote, ["digits", "--json"])
    assert json.loads(result.output)["move"]["version"] == "1"
    result = CliRunner().invoke(cli.promote, ["digits"])
    assert "already the champion" in result.output
    result = CliRunner().invoke(cli.rollback, ["digits", "--reason", "wrong data"])
    assert result.output == "digits: champion is now no version, was version 1 (wrong data).\n"
    first, second, now = CliRunner().invoke(cli.ledger, ["digits"]).output.splitlines()
    assert "promote   none -> 1" in first
    assert "rollback  1 -> none" in second
    assert second.endswith("wrong data")
    assert now == "Champion now: none."
    result = CliRunner().invoke(cli.ledger, ["digits", "--json"]).output
    assert [move["kind"] for move in json.loads(result)] == ["promote", "rollback"]


def test_the_command_reports_an_improvement_within_the_noise(register, uri, monkeypatch):
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    for fid in (30.0, 29.0, 28.0):
        others = {"recall": 0.5, "coverage": 0.5, "memorisation": 0.1}
        register(fid, interval=(fid - 3, fid + 3), more=others)
        result = CliRunner().invoke(cli.promote, ["digits", *(["--reason", "nicer"] if fid == 28 else [])]).output
        assert result.count("within the noise") == (fid < 30), result
    assert "was version 2 (nicer).\nMeasured: fid 28.0000 against 29.0000" in result


def test_a_champion_with_changed_files_can_be_replaced_by_force(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    (artifacts(client, "1") / "metrics.json").write_text("{}")
    with pytest.raises(TrackingError, match=r"metrics\.json was changed.*--force --reason"):
        promote("digits", tracking_uri=uri)
    assert promote("digits", tracking_uri=uri, force=True, reason="it was changed").version == "2"


def test_files_that_were_changed_are_named_with_their_version_and_place(register, client, uri):
    """Not in the temporary copy that was checked. Measuring would not help: it needs the files, too."""
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(20.0)
    place = artifacts(client, "1")
    (place / "README.md").write_text("another")
    found = (
        f"Version 1 of 'digits' ({place.as_uri()}): README.md was changed. The folder differs from what was registered"
    )
    with pytest.raises(TrackingError) as raised:
        promote("digits", tracking_uri=uri)
    assert str(raised.value).startswith(found)
    assert "Restore its files. Or promote without a comparison: gantry promote digits --version 2 --force" in str(
        raised.value
    )
    assert "--measure" not in str(raised.value)
    assert found in verify_ledger("digits", tracking_uri=uri).breaks[0]


def test_a_promotion_is_made_even_if_its_verdicts_cannot_be_described(register, client, uri, monkeypatch, caplog):
    """An error would say that the champion had not moved."""

    def away(*_, **__):
        raise MlflowException("the server is restarting")

    register(30.0)
    monkeypatch.setattr(MlflowClient, "update_model_version", away)
    assert promote("digits", tracking_uri=uri).version == "1"
    assert champion(client) == "1"
    assert "not in the description of version 1: the server is restarting." in caplog.text


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "not moved"])
def test_a_server_that_fails_meanwhile_may_have_moved_the_champion(register, client, uri, monkeypatch, moved):
    """Whoever repeated the rollback without a look could undo two promotions."""
    for fid in (30.0, 20.0, 10.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    move = MlflowClient.set_registered_model_alias

    def answer_lost(*arguments):
        if moved:
            move(*arguments)
        raise MlflowException("no answer in time")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", answer_lost)
    with pytest.raises(
        TrackingError, match=r"champion of 'digits' was moved from 3 to 2 \(no answer in time\).*gantry ledger"
    ):
        rollback("digits", tracking_uri=uri)
    assert champion(client) == ("2" if moved else "3")


def test_a_champion_whose_files_are_gone_can_be_replaced_by_force(register, client, uri):
    register(30.0)
    promote("digits", tracking_uri=uri)
    register(25.0)
    shutil.rmtree(artifacts(client, "1").parent)
    gone = "The files of version 1 of 'digits' are gone: there is no file at"
    with pytest.raises(TrackingError, match=gone):
        promote("digits", tracking_uri=uri)
    assert gone in verify_ledger("digits", tracking_uri=uri).breaks[0]
    assert promote("digits", tracking_uri=uri, force=True, reason="its files were deleted").previous == "1"
    with pytest.raises(TrackingError, match=gone):
        rollback("digits", tracking_uri=uri)
    assert champion(client) == "2"


def test_rollback_to_a_version_with_changed_files_is_refused(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
        promote("digits", tracking_uri=uri)
    (artifacts(client, "1") / "README.md").write_text("another")
    with pytest.raises(CheckpointError, match=r"README\.md was changed"):
        rollback("digits", tracking_uri=uri)
    assert champion(client) == "2"


def test_a_legacy_ledger_continues_as_a_chain(register, client, uri):
    for fid in (30.0, 20.0):
        register(fid)
    old = {"kind": "promote", "version": "1", "previous": None, "at": "2024-01-01T00:00:00.000Z", "by": "ann"}
    old |= {"reason": "", "forced": False, "undoes": None, "id": "1704067200000-0123abcd"}
    client.set_registered_model_tag("digits", f"gantry.ledger.{old['id']}", json.dumps(old))
    client.set_registered_model_alias("digits", "champion", "1")
    promote("digits", tracking_uri=uri)
    report = verify_ledger("digits", tracking_uri=uri)
    assert (report.breaks, report.entries, report.chained) == ((), 2, 1)
    client.set_registered_model_tag("digits", f"gantry.ledger.{old['id']}", json.dumps({**old, "by": "eve"}))
    assert "an entry from before the chain was changed" in verify_ledger("digits", tracking_uri=uri).breaks[0]
    assert rollback("digits", tracking_uri=uri).version == "1"
    with pytest.raises(TrackingError, match="cannot be trusted"):
        rollback("digits", tracking_uri=uri)
