"""Requests for samples that arrive together share a batch, and labels are given by name or number."""

import io
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference import together
from gan_core.inference.generator import load_generator, save_generator
from gan_core.inference.manifest import write_manifest
from gan_core.metrics.protocol import Figure
from pipelines.registry.model_folder import write_model
from tests.pipelines.registry.conftest import PROTOCOL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow folder of a class-conditional generator."""
    place = tmp_path_factory.mktemp("cgan")
    shape = ImageShape(channels=1, height=16, width=16, classes=2)
    family = build_family("cgan", family_config("cgan", {"width": 8, "latent": 8, "embedding": 8}), shape)
    family.update_statistics({"generator": family.networks["generator"]})
    save_generator(place / "generator", family=family, extra={"classes": ["boot", "bag"], "step": 7, "dataset": "d"})
    write_model(
        place / "model",
        generator_dir=place / "generator",
        name="shoes",
        figure=Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict(),
        figures=[],
        tags={},
        card={},
        example=None,
        model_id="m-1",
        run_id=None,
    )
    return place / "model"


def pictures(answer: pd.DataFrame) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in answer["png"]]).astype(int)


def test_a_label_is_a_name_or_a_number(folder: Path) -> None:
    model, generator = mlflow.pyfunc.load_model(str(folder)), load_generator(folder.parent / "generator")
    expected = generator.sample(2, 5, 1).numpy()[:, 0].astype(int)
    for label in ("bag", 1, "1", 1.0):
        made = pictures(model.predict(pd.DataFrame({"n": [2], "seed": [5], "label": [label]})))
        assert np.abs(made - expected).max() <= 1
    mixed = pictures(model.predict(pd.DataFrame({"n": [2, 2], "seed": [5, 5], "label": ["boot", "bag"]})))
    assert np.abs(mixed[2:] - expected).max() <= 1
    assert np.abs(mixed[:2] - expected).max() > 1


@pytest.mark.parametrize("label", ["hat", 2, -1, 0.5])
def test_an_unknown_label_is_refused_with_the_known_ones(folder: Path, label: Any) -> None:
    with pytest.raises(
        MlflowException, match=rf"row 0: the generator has no label {label}; labels are boot \(0\), bag"
    ):
        mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"n": [1], "label": [label]}))


def test_requests_that_wait_share_a_batch_and_each_gets_its_own_pictures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, generator = mlflow.pyfunc.load_model(str(folder)), load_generator(folder.parent / "generator")
    begun, go, sizes = threading.Event(), threading.Event(), []
    plain: Callable[..., Any] = together.sample_together

    def noted(made_by: Any, draws: Any) -> Any:
        sizes.append(sum(len(one.latents) for one in draws))
        if len(sizes) == 1:
            begun.set()
            assert go.wait(30)
        return plain(made_by, draws)

    monkeypatch.setattr(together, "sample_together", noted)
    python_model = model.unwrap_python_model()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(model.predict, pd.DataFrame({"n": [1], "seed": [100]}))
        assert begun.wait(30)
        rest = [pool.submit(model.predict, pd.DataFrame({"n": [2], "seed": [seed]})) for seed in range(5)]
        while len(python_model._waiting) < 5:
            assert not any(one.done() for one in rest)
        go.set()
        first.result()
        for seed, one in enumerate(rest):
            assert np.abs(pictures(one.result()) - generator.sample(2, seed).numpy()[:, 0].astype(int)).max() <= 1
    assert sizes == [1, 10]


def test_a_failure_in_a_batch_reaches_every_request_and_the_next_is_answered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mlflow.pyfunc.load_model(str(folder))

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(together, "sample_together", broken)
        with pytest.raises(MlflowException, match="The model failed on this request"):
            model.predict(pd.DataFrame({"n": [1]}))
    assert len(model.predict(pd.DataFrame({"n": [1]}))) == 1


def test_a_version_that_gets_the_code_of_another_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow puts a version's code on the path, where Python does not look for what it has imported already."""
    mlflow.pyfunc.load_model(str(folder))
    assert "gan_core" not in caplog.text
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    with (other / "code" / "gan_core" / "batch.py").open("a") as file:
        file.write("# of another version\n")
    write_manifest(other)
    mlflow.pyfunc.load_model(str(other))
    assert "is used in place of this version's own copy and differs from it" in caplog.text
