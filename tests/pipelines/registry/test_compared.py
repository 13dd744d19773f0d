"""``gantry compare``: runs, versions and revisions beside each other, honestly."""

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from PIL import Image

from gan_core.errors import StageError, TrackingError
from gan_core.files import write_json
from gan_core.metrics.assess import Assessment
from gan_core.metrics.protocol import Figure, better_is
from pipelines.commands.compare import _print as print_comparison
from pipelines.commands.compare import compare
from pipelines.evaluation.measure import metrics_json
from pipelines.registry.compared import Side
from pipelines.registry.comparison import compare as compare_sides
from pipelines.registry.comparison import judge
from pipelines.registry.comparison_page import page
from pipelines.runtime.checkout import Checkout
from pipelines.tracking import RunLog, find_run, sync
from pipelines.tracking.runlog import STAGE_TAG, TRIAL
from tests.pipelines.registry.conftest import PROTOCOL, artifacts, seal
from tests.pipelines.settings_example import ROOT
from tests.pipelines.toy import make_project, run

EVIL = "<script>alert(1)</script>"


def figure(value: float, low: float | None = None, high: float | None = None, **protocol) -> Figure:
    measured = dataclasses.replace(PROTOCOL, **protocol)
    return Figure(name="fid", value=value, low=low, high=high, protocol=measured, generator_digest="f" * 64)


def metrics(path: Path, found: Figure) -> Path:
    write_json(path, metrics_json(Assessment(found, (found,))))
    return path


def test_a_difference_is_real_only_beyond_the_noise() -> None:
    assert judge(figure(8, 7, 9), figure(12, 11, 13))[0] == "better"
    assert judge(figure(12, 11, 13), figure(8, 7, 9))[0] == "worse"
    assert judge(figure(8, 7, 12), figure(12, 11, 13))[0] == "within noise"
    assert judge(figure(8), figure(12)) == (
        "no interval",
        "better, but without intervals nobody knows whether by chance",
    )


def test_a_figure_that_only_describes_is_neither_better_nor_worse() -> None:
    """More colour is not better, and less is not either."""
    one, other = (dataclasses.replace(figure(*ends), name="colourfulness") for ends in ((8, 7, 9), (12, 11, 13)))
    assert judge(one, other) == ("different", "the 95 % intervals do not overlap")
    assert better_is("colourfulness", False) == "neither"


def test_numbers_and_settings_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Without its exponent, the upper end would be 100,000 times as large."""
    place = "/photographs/of/a/folder/with/a/long/name"
    sides = [
        Side(name=name, kind="run", params={"data.url": f"{place}/{name}"}, figures={"kid": figure(-6e-5, *ends)})
        for name, ends in (("a", (-0.00023456, 1.2345e-5)), ("b", (-0.00023457, 1.2346e-5)))
    ]
    print_comparison(compare_sides(sides))
    shown = capsys.readouterr().out
    assert "-6e-05 [-0.00023456, 1.2345e-05]" in shown
    assert f"{place}/a {place}/b" in shown


def test_the_paired_interval_counts_where_there_is_one() -> None:
    """The intervals overlap, but the same real pictures move both figures by the same amount."""
    moved = [float(number) for number in range(10)]
    one = dataclasses.replace(figure(10.0, 5, 15), jackknife=tuple(moved))
    other = dataclasses.replace(figure(11.0, 6, 16), jackknife=tuple(value + 1 for value in moved))
    verdict, because = judge(one, other)
    assert verdict == "better"
    assert "the difference is -1" in because


def test_figures_of_different_protocols_are_never_compared() -> None:
    verdict, because = judge(figure(1, 0, 2, fake_count=50), figure(100, 99, 101))
    assert verdict == "not comparable"
    assert "fake_count: 50 against 1000" in because


def test_the_page_escapes_names_and_loads_nothing() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    sides = [
        Side(
            name=f"{EVIL} {number}",
            kind="run",
            params={"data": f"{EVIL}{number}", EVIL: str(number)},
            figures={f"fid {EVIL}": figure(10.0 + number, split=EVIL)},
            pictures={"samples.png": buffer.getvalue()},
            curves={"fid": [(kimg, 100 / (kimg + 1)) for kimg in range(5000)]},
            missing=(EVIL,),
        )
        for number in range(2)
    ]
    text = page(sides, compare_sides(sides))
    assert "<script" not in text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    assert text.count("data:image/png;base64,") == 2
    assert text.count("<polyline") == 2
    assert len(text) < 100_000, "the curves are thinned"


def test_fids_of_different_protocols_are_not_drawn_on_one_axis() -> None:
    """An FID of 600 pictures is higher than one of 1,000 of the same generator."""

    def side(name: str, samples: str | None, digest: str = "a" * 64) -> Side:
        curve = [(0.0, 100.0), (1.0, 50.0)]
        return Side(
            name=name,
            kind="run",
            params={"train.fid_samples": samples} if samples else {},
            figures={"fid": figure(10.0, dataset_digest=digest)},
            curves={"fid": curve, "loss_generator": curve},
        )

    sides = [side("a", "1000"), side("b", "600"), side("c", "1000"), side("d", "1000", "b" * 64), side("e", None)]
    text = page(sides, compare_sides(sides))
    drawn = [re.sub("<[^>]*>", "", caption) for caption in re.findall("<figcaption>(.*?)</figcaption>", text)]
    assert drawn == ["fid: a, c", "fid: b", "fid: d", "fid: e", "loss_generator: a, b, c, d, e"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return make_project(tmp_path_factory.mktemp("compare") / "project", {"params.yaml": yaml.safe_dump(params)})


@pytest.fixture
def checkout(template: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("GANTRY_TRACKING_URI", uri)
    monkeypatch.chdir(template)
    return Checkout.at(template)


@pytest.fixture
def logged(tmp_path: Path, checkout: Checkout, uri: str) -> Callable[..., str]:
    """Record a run of the pipeline with a seed and a FID; returns its id."""

    def log(key: str, seed: int, found: Figure | None, shown: str = "") -> str:
        with RunLog(tmp_path / "track", key=key, name=shown or key) as log:
            log.log_params({"train": {"seed": seed, "batch": 64}})
            log.log_metrics({"cost/kimg": 19.2}, 0)
            if found:
                log.log_artifact(metrics(tmp_path / key / "metrics.json", found))
        sync(tmp_path / "track", tracking_uri=uri, experiment="gantry")
        reference = find_run(uri, "gantry", key)
        assert reference
        return reference.run_id

    return log


def told(*words: str) -> Result:
    return CliRunner().invoke(compare, [*words])


def test_runs_are_compared_by_id_or_name(logged: Callable[..., str], tmp_path: Path) -> None:
    first = logged("first", 0, figure(12, 11, 13))
    logged("second", 1, figure(8, 7, 9))
    found = json.loads(told(first, "second", "--json", "--html", str(tmp_path / "page.html")).output)
    assert found["settings"] == {"train.seed": ["0", "1"]}
    assert [cell["value"] for cell in found["figures"]["fid"]] == [12, 8]
    assert found["figures"]["fid"][1]["against_first"] == "better"
    assert found["cost"] == {"cost/kimg": [19.2, 19.2]}
    assert "the 95 % intervals do not overlap" in (tmp_path / "page.html").read_text()
    assert "second: better: the 95 % intervals do not overlap" in told(first, "second").output


def test_the_run_of_a_stage_means_that_of_the_pipeline_and_that_of_a_trial_is_refused(
    logged: Callable[..., str], tmp_path: Path, uri: str
) -> None:
    """Two trials of a search would have the figures of the pipeline's run, and be equal."""
    first, second = logged("first", 0, figure(12, 11, 13)), logged("second", 1, figure(8, 7, 9))
    nested = {}
    for stage in ("train", TRIAL):
        key = f"second-{stage}"
        with RunLog(tmp_path / "track", key=key, name=stage, parent_key="second", tags={STAGE_TAG: stage}):
            pass
        sync(tmp_path / "track", tracking_uri=uri, experiment="gantry")
        nested[stage] = find_run(uri, "gantry", key).run_id
    found = json.loads(told(first, nested["train"], "--json").output)
    assert [cell["value"] for cell in found["figures"]["fid"]] == [12, 8]
    refused = told(second, nested[TRIAL]).exception
    assert isinstance(refused, TrackingError)
    assert f"{nested[TRIAL]} is the run of a trial, which has no figures with a protocol" in str(refused)


def test_a_run_is_found_by_the_name_that_mlflows_page_shows(logged: Callable[..., str]) -> None:
    logged("first", 0, figure(12), "digits 2026-11-29 20:13")
    logged("second", 1, figure(8), "digits again")
    found = json.loads(told("digits 2026-11-29 20:13", "digits again", "--json").output)
    assert [cell["value"] for cell in found["figures"]["fid"]] == [12, 8]
    third = logged("third", 2, figure(8), "digits again")
    refused = told("digits again", "digits 2026-11-29 20:13").exception
    assert isinstance(refused, TrackingError)
    assert re.search(f"2 runs have the name 'digits again'.*{third}", str(refused))


def test_a_revision_is_compared_with_what_it_committed(
    logged: Callable[..., str], checkout: Checkout, tmp_path: Path
) -> None:
    metrics(checkout.metrics, figure(10, 9, 11))
    run("git", "add", "-A", cwd=checkout.root)
    run("git", "commit", "-qm", "measured", cwd=checkout.root)
    run("git", "update-ref", "refs/exps/ab/cdef/brave-tern", "HEAD", cwd=checkout.root)
    logged("first", 5, figure(10, 9, 11))
    for name in ("HEAD", "brave-tern"):
        found = json.loads(told("first", name, "--json").output)
        assert [cell["value"] for cell in found["figures"]["fid"]] == [10, 10]
        assert found["settings"]["train.seed"] == ["5", "0"]
        assert found["settings_of_some"], "a run does not record every setting"
        assert any(
            what.startswith("outputs/train/curves.csv (not in this revision, which has no dvc.lock")
            for what in found["compared"][1]["missing"]
        )
    run("git", "commit", "--allow-empty", "-qm", "later", cwd=checkout.root)
    run("git", "update-ref", "refs/exps/12/3456/brave-tern", "HEAD", cwd=checkout.root)
    refused = told("first", "brave-tern").exception
    assert isinstance(refused, TrackingError)
    assert "2 DVC experiments have the name 'brave-tern'. Give the commit of one" in str(refused)


def test_a_registered_version_is_compared(logged, register, checkout: Checkout) -> None:
    logged("first", 0, figure(25.0))
    register(fid=20.0)
    found = json.loads(told("first", "digits/1", "--json").output)
    assert [cell["value"] for cell in found["figures"]["fid"]] == [25, 20]
    assert found["figures"]["fid"][1]["against_first"] == "no interval"


@pytest.mark.parametrize("where", ["run", "version"])
def test_a_version_lacks_figures_if_its_own_files_do(
    where: str, logged: Callable[..., str], register, checkout: Checkout, uri: str
) -> None:
    """What its run lacks or has is not among them."""
    run_id = logged("first", 0, None if where == "run" else figure(25.0))
    register(fid=20.0, run_id=run_id)
    if where == "version":
        (artifacts(MlflowClient(uri), "1") / "metrics.json").unlink()
        seal(MlflowClient(uri), "1")
    found = json.loads(told("digits/1", run_id, "--json").output)
    lacking = ["metrics.json, so it has no figures with a protocol"]
    assert [side["missing"] for side in found["compared"]] == ([[], lacking] if where == "run" else [lacking, []])
    assert [cell and cell["value"] for cell in found["figures"]["fid"]] == (
        [20, None] if where == "run" else [None, 25]
    )


def test_a_file_too_large_to_compare_is_named(
    logged: Callable[..., str], checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.registry.compared._LARGEST_FILE", 100)
    run_id = logged("first", 0, figure(25.0))
    output = told(run_id, "HEAD").output
    assert f"first ({run_id[:8]}) lacks metrics.json (larger than 100 bytes)" in output
    assert "HEAD lacks params.yaml (larger than 100 bytes)" in output


def test_the_page_shows_the_generators_of_versions_at_the_same_latents(
    register: Callable[..., object], checkout: Checkout, tmp_path: Path
) -> None:
    register(fid=20.0)
    register(fid=18.0)  # the same generator
    assert told("digits/1", "digits/2", "--html", str(tmp_path / "page.html")).exit_code == 0
    shown = re.findall(r"data:image/png;base64,([^\"]+)", (tmp_path / "page.html").read_text())
    assert len(shown) == 2
    assert shown[0] == shown[1]


def test_a_run_that_was_deleted_in_mlflow_is_an_error_with_the_remedy(logged: Callable[..., str], uri: str) -> None:
    first, second = logged("first", 0, figure(12)), logged("second", 0, figure(12))
    MlflowClient(uri).delete_run(second)
    error = told(first, second).exception
    assert isinstance(error, TrackingError)
    assert f"was deleted in MLflow. To compare it, restore it: mlflow runs restore --run-id {second}" in str(error)


def test_an_unknown_name_is_an_error(logged: Callable[..., str]) -> None:
    error = told(logged("first", 0, figure(12)), "nowhere").exception
    assert isinstance(error, TrackingError)
    assert "There is no run, registered version, revision or DVC experiment 'nowhere'" in str(error)


def test_figures_of_another_edition_are_an_error(logged: Callable[..., str], tmp_path: Path, uri: str) -> None:
    first = logged("first", 0, figure(12))
    path = metrics(tmp_path / "other" / "metrics.json", figure(12))
    content = json.loads(path.read_text())
    content["fid"]["protocol"]["from_the_future"] = 1
    write_json(path, content)
    with RunLog(tmp_path / "track", key="other", name="other") as log:
        log.log_artifact(path)
    sync(tmp_path / "track", tracking_uri=uri, experiment="gantry")
    error = told(first, "other").exception
    assert isinstance(error, StageError)
    assert "metrics.json of other" in str(error)
    assert "of another edition of Gantry" in str(error)


def test_a_run_without_figures_is_compared_by_its_settings(logged: Callable[..., str]) -> None:
    first, second = logged("first", 0, figure(12)), logged("second", 1, None)
    output = told(first, second).output
    assert "train.seed" in output
    assert re.search(r"lacks metrics\.json, so it has no figures", output)
