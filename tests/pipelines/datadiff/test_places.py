"""Data is found by folder, by the name of raw data, by revision and by registered version; `gantry data diff` compares it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image

from gan_core.data import PreparedDataset
from gan_core.errors import DataError, GantryError
from pipelines.commands.data import data
from pipelines.datadiff.places import prepared_data
from pipelines.registry.register import Registered
from pipelines.runtime.checkout import PREPARED, Checkout
from tests.datasets import blobs, write_prepared
from tests.pipelines.registry.conftest import generator_dir, register  # noqa: F401  fixtures
from tests.pipelines.settings_example import ROOT
from tests.pipelines.toy import run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in git whose first commit has 12 pictures in its dvc.lock and its cache, and whose folder has 16."""
    root = tmp_path_factory.mktemp("projects") / "project"
    root.mkdir()
    params = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("sqlite:///var/mlflow.db", f"sqlite:///{root}/none.db"))
    run("git", "init", "-q", "-b", "main", cwd=root)
    Repo.init(str(root)).close()
    write_prepared(root / PREPARED, blobs(16)[:12])
    with Repo(str(root)) as repo:
        (stage,) = repo.add(str(root / PREPARED))
        digest = stage.outs[0].hash_info.value
    (root / f"{PREPARED}.dvc").unlink()
    lock = {"schema": "2.0", "stages": {"ingest": {"cmd": "x", "outs": [{"path": PREPARED, "md5": digest}]}}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-qm", "twelve", cwd=root)
    shutil.rmtree(root / PREPARED)
    write_prepared(root / PREPARED, blobs(16))
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path) -> Checkout:
    return Checkout.at(shutil.copytree(template, tmp_path / "project"), {})


def digests(count: int, place: Path) -> str:
    return PreparedDataset(write_prepared(place, blobs(16)[:count])).info.digest


def test_a_revision_means_the_prepared_data_of_its_dvc_lock(checkout: Checkout, tmp_path: Path) -> None:
    for revision in ("HEAD", "main"):
        with prepared_data(revision, checkout, None) as found:
            assert found.info.digest == digests(12, tmp_path / "expected")
            assert len(found.pixels("train")) == 12
    with prepared_data("data/prepared", checkout, None) as found:
        assert found.info.digest == digests(16, tmp_path / "other")


def test_a_registered_version_means_the_data_that_it_was_trained_on(
    checkout: Checkout,
    register: Callable[..., Registered],  # noqa: F811
    uri: str,
    tmp_path: Path,
) -> None:
    register(card={"dvc.lock": checkout.dvc_lock})
    (checkout.raw_data("digits") / "1").mkdir(parents=True)  # the folder of a class
    for name in ("digits@challenger", "digits/1", "models:/digits/1"):
        with prepared_data(name, checkout, uri) as found:
            assert found.info.digest == digests(12, tmp_path / name.replace("/", "-"))
    register(fid=1.0, stage_key="b")
    with pytest.raises(DataError, match=r"digits/2 has no dvc\.lock, so its data is unknown"):
        prepared_data("digits/2", checkout, uri).__enter__()


def test_raw_data_is_prepared_with_the_settings_of_the_project(checkout: Checkout) -> None:
    for index, picture in enumerate(blobs(6, size=40)):
        place = checkout.raw_data("mine") / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(picture[0])).save(place)
    with prepared_data("mine", checkout, None) as found:
        assert (found.info.height, found.info.splits) == (32, {"train": 6})


def test_unusable_pictures_are_named_because_their_list_is_temporary(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/1.png").write_bytes(b"no picture")
    Image.fromarray(blobs(1)[0, 0]).save(tmp_path / "raw/2.png")
    with pytest.raises(
        DataError, match=r"1 of 2 pictures \(50\.00%\) are unusable.*For example: 1\.png \(no known"
    ) as caught:
        prepared_data(str(tmp_path / "raw"), checkout, None).__enter__()
    assert "rejects.csv" not in str(caught.value)


def test_unknown_or_missing_data_is_named_with_the_forms(checkout: Checkout, uri: str) -> None:
    with pytest.raises(DataError, match=r"There is no data 'nothing'\. Give a prepared folder"):
        prepared_data("nothing", checkout, None).__enter__()
    with pytest.raises(DataError, match=r"no data 'nothing': no folder, no revision, and no registered version"):
        prepared_data("nothing", checkout, uri).__enter__()
    shutil.rmtree(checkout.root / ".dvc" / "cache")
    with pytest.raises(DataError, match=r"prepared data of revision HEAD is not in DVC's cache .* no remote"):
        prepared_data("HEAD", checkout, None).__enter__()
    run("git", "rm", "-q", "dvc.lock", cwd=checkout.root)
    run("git", "commit", "-qm", "no lock", cwd=checkout.root)
    with pytest.raises(DataError, match=r"Revision HEAD has no dvc\.lock"):
        prepared_data("HEAD", checkout, None).__enter__()


def invoke(checkout: Checkout, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.chdir(checkout.root)
    result = CliRunner().invoke(data, ["diff", *map(str, arguments)])
    if isinstance(result.exception, GantryError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_a_table_and_writes_a_sheet(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sheet = tmp_path / "added.png"
    text = invoke(checkout, monkeypatch, "HEAD", "data/prepared", "--no-figures", "--sheet", sheet)
    assert "before  HEAD: 12 pictures, 16x16" in text
    assert (
        "Changed (added, removed, in another split, or with another label): 33.3% of the number of old pictures."
        in text
    )
    assert f"4 of 4 added pictures: {sheet}" in text
    with Image.open(sheet) as picture:
        assert picture.size == (134, 134)  # two by two
    same = invoke(checkout, monkeypatch, "HEAD", "HEAD", "--sheet", tmp_path / "none.png")
    assert "The data is the same." in same
    assert "No added pictures." in same
    assert not (tmp_path / "none.png").exists()


@pytest.mark.weights
@pytest.mark.usefixtures("weights_file")
def test_the_command_prints_json_with_figures(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    text = invoke(checkout, monkeypatch, "HEAD", "data/prepared", "--json", "--features", "64", "--device", "cpu")
    found = json.loads(text)
    assert found["share"] == 4 / 12
    assert found["pictures"] == {"before": 12, "after": 16, "added": 4, "removed": 0}
    assert [figure["name"] for figure in found["figures"]] == ["fid", "kid", "coverage"]
