"""Fixtures of the registry tests: a tiny generator, and its registration."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.description import generator_digest
from gan_core.inference.generator import save_generator
from gan_core.inference.manifest import write_manifest
from gan_core.metrics.protocol import Figure, Protocol
from pipelines.registry.register import Registered, register_generator

PROTOCOL = Protocol(
    metric="fid",
    extractor="e" * 64,
    features=2048,
    precision="fp32",
    resize="bilinear",
    real_count=60000,
    fake_count=1000,
    split="train",
    dataset_digest="d" * 64,
)


@pytest.fixture(scope="session")
def generator_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported DCGAN generator of 16x16 grey pictures."""
    directory = tmp_path_factory.mktemp("export") / "generator"
    shape = ImageShape(channels=1, height=16, width=16)
    family = build_family("dcgan", family_config("dcgan", {"width": 4, "latent": 8}), shape)
    save_generator(directory, family=family, extra={"step": 7, "dataset": "d" * 64, "rollbacks": []})
    return directory


@pytest.fixture
def register(uri: str, generator_dir: Path) -> Callable[..., Registered]:
    """Register the generator with a given FID; ``more`` are values of other figures, and keyword arguments override the
    defaults."""

    def call(
        fid: float = 20.0,
        stage_key: str = "",
        protocol: dict | None = None,
        interval: tuple[float | None, float | None] = (None, None),
        jackknife: tuple[float, ...] = (),
        more: Mapping[str, float] = {},
        **changes,
    ) -> Registered:
        tags = {"gantry.stage_key": stage_key or f"key-{fid}-{len(protocol or {})}", "gantry.git_commit": "abc"}
        measured = dataclasses.replace(PROTOCOL, **(protocol or {}))
        low, high = interval
        made = changes.get("generator_dir", generator_dir)
        digest = generator_digest(made) if (made / "generator.json").is_file() else "f" * 64
        figure = Figure(
            name="fid",
            value=fid,
            protocol=measured,
            generator_digest=digest,
            low=low,
            high=high,
            jackknife=jackknife,
        )
        others = [other_figure(name, value, measured, digest) for name, value in more.items()]
        settings = {
            "generator_dir": generator_dir,
            "name": "digits",
            "tracking_uri": uri,
            "run_id": None,
            "figure": figure.as_dict(),
            "figures": [each.as_dict() for each in (figure, *others)] if others else (),
            "tags": tags,
        }
        return register_generator(**{**settings, **changes})

    return call


def other_figure(name: str, value: float, protocol: Protocol = PROTOCOL, digest: str = "f" * 64) -> Figure:
    """A figure beside the FID; of memorisation, a tenth is expected by chance."""
    better = name != "memorisation"
    protocol = dataclasses.replace(protocol, metric=name)
    baseline = None if better else 0.1
    return Figure(
        name=name,
        value=value,
        protocol=protocol,
        generator_digest=digest,
        higher_is_better=better,
        baseline=baseline,
    )


def artifacts(client: MlflowClient, version: str, name: str = "digits") -> Path:
    """The folder with the files of a version."""
    return Path(client.get_model_version(name, version).source.removeprefix("file://"))


def seal(client: MlflowClient, version: str) -> None:
    """Rewrite the manifest and its tag after a test has changed files of the version."""
    client.set_model_version_tag("digits", version, "gantry.manifest", write_manifest(artifacts(client, version)))


def refigure(client: MlflowClient, version: str, change: Callable[[dict], None]) -> None:
    """Change the figure that a version is compared by."""
    path = artifacts(client, version) / "metrics.json"
    values = json.loads(path.read_text())
    change(values["fid"])
    path.write_text(json.dumps(values))
    seal(client, version)
