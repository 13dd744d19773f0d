"""Evaluation as a task of a Ray cluster, with a storage in place of a shared disk, gives what it gives here."""

from pathlib import Path

import pytest
import torch

from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError, StageError
from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import load_generator, save_generator
from pipelines.evaluation import cluster
from pipelines.evaluation.cluster import measure_on_cluster, on_cluster
from pipelines.evaluation.measure import measure
from pipelines.evaluation.sheet import draw_sheet
from pipelines.runtime.resources import cluster_nodes
from pipelines.storage.objects import Storage
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings

SETTINGS = small_settings(evaluate__samples=24, evaluate__features=64)


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    shape = ImageShape(channels=1, height=16, width=16)
    family = build_family("dcgan", family_config("dcgan", {"width": 4, "latent": 8}), shape)
    save_generator(tmp_path / "generator", family=family, extra={"step": 7, "dataset": "d" * 64})
    return tmp_path / "generator"


@pytest.mark.parametrize(
    ("storage", "address", "expected"),
    [("file:///s", "host:6379", "file:///s"), ("file:///s", "", ""), ("", "host:6379", "")],
)
def test_it_runs_on_the_cluster_if_there_are_an_address_and_a_storage(monkeypatch, storage, address, expected) -> None:
    monkeypatch.setenv("GANTRY_STORAGE_URI", storage)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert on_cluster(SETTINGS) == expected


@pytest.mark.ray
@pytest.mark.weights
@pytest.mark.usefixtures("ray_cluster", "weights_file")
def test_figures_and_sheet_are_those_of_this_process(tmp_path, monkeypatch, generator, capsys) -> None:
    data = write_prepared(tmp_path / "data", blobs(32, size=16))
    monkeypatch.setenv("RAY_ADDRESS", "of the session")
    monkeypatch.setenv("GANTRY_STORAGE_URI", f"file://{tmp_path}/storage")
    measured = measure_on_cluster(generator, data, tmp_path / "there.png", SETTINGS, "key")
    threads = torch.get_num_threads()
    torch.set_num_threads(max(node.cpus for node in cluster_nodes()))
    try:
        here, dataset = load_generator(generator), PreparedDataset(data)
        draw_sheet(tmp_path / "here.png", here, dataset, SETTINGS.evaluate.seed)
        expected = measure(here, dataset, SETTINGS.evaluate)
        assert measured == expected
        assert measured.findings.omitted == expected.findings.omitted
        assert torch.equal(measured.findings.pairs.reals, expected.findings.pairs.reals)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()
    assert "measured on host" in capsys.readouterr().out
    names = {entry.name.split("/")[0] for entry in Storage(f"file://{tmp_path}/storage").entries()}
    assert names == {"data", "weights", "work", "uses", "leases"}

    refused = SETTINGS.with_values({"evaluate.real": 1000})
    with pytest.raises(SettingsError, match="requests 1000 real pictures, but the train split has 32"):
        measure_on_cluster(generator, data, tmp_path / "there.png", refused, "key")

    monkeypatch.setattr(cluster, "code_versions", lambda stage: "torch 1.0")
    with pytest.raises(StageError, match="the driver has torch 1.0"):
        measure_on_cluster(generator, data, tmp_path / "there.png", SETTINGS, "key")
