"""A run that training starts from is found by its name, and its weights come from DVC's cache or a remote."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, TrackingError
from gan_core.files import read_json
from gan_core.training.config import TrainConfig
from gan_core.training.start import WEIGHTS, open_start
from gan_core.training.trainer import Trainer
from pipelines.registry.parent import Parent, fetch_parent, find_parent
from pipelines.registry.register import Registered
from pipelines.runtime.checkout import START, Checkout
from tests.datasets import blobs, write_prepared
from tests.pipelines.registry.conftest import artifacts, seal

Registering = Callable[..., Registered]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The start folder of a short run."""
    from gan_core.families import family_config

    place = tmp_path_factory.mktemp("trained")
    data = PreparedDataset(write_prepared(place / "data", blobs(8)), place / "decoded")
    config = TrainConfig(steps=1, batch=4, precision="fp32")
    family = family_config("dcgan", {"width": 4, "latent": 8})
    trainer = Trainer("dcgan", family, data, config, place / "run", device="cpu")
    trainer.run()
    trainer.export_start(place / "start")
    return place / "start"


@pytest.fixture
def checkout(trained: Path, tmp_path: Path) -> Checkout:
    """A DVC project whose cache has the start folder; its dvc.lock names it."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "params.yaml").write_text("{}\n")
    Repo.init(str(root), no_scm=True).close()
    shutil.copytree(trained, root / START)
    with Repo(str(root)) as repo:
        (stage,) = repo.add(str(root / START))
        digest = stage.outs[0].hash_info.value
    lock = {"schema": "2.0", "stages": {"train": {"cmd": "x", "outs": [{"path": START, "md5": digest}]}}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(root / START)
    (root / f"{START}.dvc").unlink()
    return Checkout.at(root, {})


@pytest.fixture
def version(register: Registering, checkout: Checkout, trained: Path) -> Registered:
    """A version that knows what a later run needs."""
    card = {"dvc.lock": checkout.dvc_lock, "start.json": trained / "start.json"}
    return register(card=card)


@pytest.mark.parametrize("name", ["digits@challenger", "digits/1", "digits"])
def test_a_version_is_found_by_name_and_its_weights_come_from_the_cache(
    name: str, version: Registered, checkout: Checkout, trained: Path, uri: str, tmp_path: Path
) -> None:
    parent = find_parent(name, checkout, uri)
    assert (parent.name, parent.digest) == ("digits/1", open_start(trained).digest)
    assert parent.images_seen == read_json(trained / "start.json")["total_images"] == 4
    fetch_parent(parent, checkout, tmp_path / "fetched")
    assert {path.name: path.read_bytes() for path in (tmp_path / "fetched").iterdir()} == {
        path.name: path.read_bytes() for path in trained.iterdir()
    }


def test_weights_that_are_not_in_the_cache_come_from_the_remote(
    version: Registered, checkout: Checkout, uri: str, tmp_path: Path
) -> None:
    parent = find_parent("digits/1", checkout, uri)
    cache = checkout.root / ".dvc" / "cache"
    shutil.move(cache, tmp_path / "remote")
    with pytest.raises(CheckpointError, match=r"weights of digits/1 are not in DVC's cache here.*dvc push.*DVC remote"):
        fetch_parent(parent, checkout, tmp_path / "fetched")
    with Repo(str(checkout.root)) as repo, repo.config.edit() as config:
        config["remote"]["there"] = {"url": str(tmp_path / "remote")}
        config["core"]["remote"] = "there"
    fetch_parent(parent, checkout, tmp_path / "fetched")
    assert (tmp_path / "fetched" / WEIGHTS).is_file()


def test_a_damaged_file_of_the_cache_is_named(
    version: Registered, checkout: Checkout, uri: str, tmp_path: Path
) -> None:
    parent = find_parent("digits/1", checkout, uri)
    largest = max(
        (checkout.root / ".dvc" / "cache").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    largest.chmod(0o600)
    largest.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=rf"digits/1 is damaged: .*{WEIGHTS} does not match its SHA-256"):
        fetch_parent(parent, checkout, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_a_version_whose_description_was_changed_is_refused(version: Registered, checkout: Checkout, uri: str) -> None:
    client = MlflowClient(uri)
    (artifacts(client, "1") / "start.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"start\.json was changed"):
        find_parent("digits/1", checkout, uri)


def test_versions_that_cannot_be_started_from_say_why(
    register: Registering, checkout: Checkout, uri: str, trained: Path, tmp_path: Path
) -> None:
    register()
    with pytest.raises(TrackingError, match=r"train\.start_from: digits/1 has no start\.json: .*older version"):
        find_parent("digits/1", checkout, uri)
    none = tmp_path / "none.json"
    none.write_text((trained / "start.json").read_text().replace(f'"{WEIGHTS}"', '"x"'))
    values = read_json(trained / "start.json")
    from gan_core.files import write_json

    write_json(none, {**values, "files": {}})
    register(fid=1.0, stage_key="b", card={"dvc.lock": checkout.dvc_lock, "start.json": none})
    with pytest.raises(TrackingError, match="digits/2 was trained with train.save_start: none"):
        find_parent("digits/2", checkout, uri)
    register(fid=2.0, stage_key="c", card={"start.json": trained / "start.json"})
    with pytest.raises(TrackingError, match=r"digits/3 does not say where its weights are: its dvc\.lock"):
        find_parent("digits/3", checkout, uri)
    with pytest.raises(
        TrackingError, match=r"no alias 'champion'.* For the first version, set train.start_from to null"
    ):
        find_parent("digits@champion", checkout, uri)
    with pytest.raises(TrackingError, match=r"There is no generator 'faces'.* For the first version, set"):
        find_parent("faces", checkout, uri)
    with pytest.raises(CheckpointError, match=r"there is no folder .*elsewhere"):
        find_parent("./elsewhere", checkout, uri)


def test_the_first_run_of_a_project_is_told_to_start_from_random_weights(tmp_path: Path) -> None:
    """The pipeline itself fails with this error, so 'run the pipeline first' alone would lead nowhere."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(TrackingError, match=r"does not exist\..* For the first version, set train\.start_from to null"):
        find_parent("faces@champion", Checkout.at(tmp_path), uri)


def test_a_run_that_was_deleted_in_mlflow_is_named(version: Registered, checkout: Checkout, uri: str) -> None:
    client = MlflowClient(uri)
    run = client.create_run("0").info.run_id
    client.delete_run(run)
    with pytest.raises(TrackingError, match=f"The run {run} was deleted in MLflow, and no version"):
        find_parent(run, checkout, uri)
    registered = str(client.get_model_version("digits", "1").run_id)
    client.delete_run(registered)
    assert find_parent(registered, checkout, uri).name == "digits/1", "the version outlives its run"


def test_a_folder_is_found_relative_to_the_checkout(
    checkout: Checkout, trained: Path, uri: str, tmp_path: Path
) -> None:
    shutil.copytree(trained, checkout.root / "earlier" / "start")
    parent = find_parent("earlier", checkout, uri)
    assert parent == Parent(
        name="earlier",
        digest=open_start(trained).digest,
        images_seen=4,
        folder=str(checkout.root / "earlier" / "start"),
    )
    (checkout.root / "earlier" / "start" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="earlier is incomplete"):
        fetch_parent(parent, checkout, tmp_path / "fetched")


def test_a_changed_manifest_does_not_hide_a_change(
    version: Registered, checkout: Checkout, uri: str, tmp_path: Path
) -> None:
    """The weights are checked against the description that the version was registered with."""
    client = MlflowClient(uri)
    described = artifacts(client, "1") / "start.json"
    described.write_text(described.read_text().replace('"step": 1', '"step": 2'))
    seal(client, "1")
    with pytest.raises(CheckpointError, match="digits/1 has changed: its description has the digest"):
        fetch_parent(find_parent("digits/1", checkout, uri), checkout, tmp_path / "fetched")
