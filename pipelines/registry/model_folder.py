"""Write a generator as an MLflow model folder of safetensors, source code and JSON, without pickles."""

import importlib.metadata
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gan_core
from gan_core.files import read_json, write_json
from gan_core.inference.generator import Generator, load_generator
from gan_core.inference.manifest import write_manifest
from gan_core.metrics.objective import FID
from pipelines.registry.card import example_target, model_card
from pipelines.registry.contents import METRICS
from pipelines.tracking.store import silence_logger

_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "safetensors", "pandas")
_SCRIPT = Path(__file__).with_name("pyfunc_model.py")


def model_signature(generator: Generator) -> Any:
    """The MLflow signature of a generator.

    From noise: inputs ``n`` and optionally ``seed``, ``label`` and ``truncation``; outputs ``png``, ``seed``, ``index`` and
    ``row``. From pictures: inputs ``image`` or ``pixels``, and optionally ``target``, ``seed`` and, if the generator takes a
    style from a picture, ``reference``; outputs ``png`` and ``row``.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array

    if generator.translates:
        styles = [ColSpec(DataType.binary, "reference", required=False)] if generator.takes_styles else []
        return ModelSignature(
            inputs=Schema(
                [
                    ColSpec(DataType.binary, "image", required=False),
                    ColSpec(Array(Array(Array(DataType.long))), "pixels", required=False),
                    ColSpec(DataType.string, "target", required=False),
                    ColSpec(DataType.long, "seed", required=False),
                    *styles,
                ]
            ),
            outputs=Schema([ColSpec(DataType.binary, "png"), ColSpec(DataType.long, "row")]),
        )
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.long, "n"),
        ColSpec(DataType.long, "seed", required=False),
        ColSpec(AnyType(), "label", required=False),
        ColSpec(DataType.double, "truncation", required=False),
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.binary, "png"),
        *(ColSpec(DataType.long, name) for name in ("seed", "index", "row")),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def input_example(generator: Generator, picture: bytes | None) -> Any:
    """An example request; None for a generator that translates if there is no example ``picture``."""
    import pandas

    if not generator.translates:
        return pandas.DataFrame({"n": [4], "seed": [0]})
    if picture is None:
        return None
    target = example_target(generator)
    return pandas.DataFrame({"image": [picture], **({"target": [target]} if target else {}), "seed": [0]})


def pip_requirements() -> list[str]:
    """The packages that the model needs, at the installed versions, without local labels (torch 2.13.0, not +cpu)."""
    return [f"{package}=={importlib.metadata.version(package).partition('+')[0]}" for package in _PACKAGES]


def write_model(
    target: Path,
    *,
    generator_dir: Path,
    name: str,
    figure: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    card: Mapping[str, Path],
    notes: Mapping[str, str] = MappingProxyType({}),
    example: bytes | None,
    model_id: str,
    run_id: str | None,
) -> str:
    """Write the model folder ``target`` with its card, figures and manifest; returns the digest of the manifest.

    Args:
        target: a folder that does not exist.
        generator_dir: an exported generator.
        name: registered model, for the card.
        figure: the figure that versions are compared by, with its protocol.
        figures: all measured figures.
        tags: lineage, for the card.
        card: files to copy beside the card, by name.
        notes: for the card; see :func:`pipelines.registry.card.model_card`.
        example: a small picture file as the input example of a generator that translates.
        model_id: id of the MLflow logged model.
        run_id: id of the run that the model belongs to.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    info = read_json(generator_dir / "generator.json")
    generator = load_generator(generator_dir)
    model = Model(model_uuid=model_id, model_id=model_id, run_id=run_id, metadata={"gantry.family": info["family"]})
    # MLflow warns about missing type hints, from which it infers a signature. The signature is given here.
    with silence_logger("mlflow", logging.ERROR):
        mlflow.pyfunc.save_model(
            path=str(target),
            mlflow_model=model,
            python_model=str(_SCRIPT),
            artifacts={"generator": generator_dir.resolve().as_uri()},
            code_paths=[str(Path(gan_core.__file__).parent)],
            pip_requirements=pip_requirements(),
            signature=model_signature(generator),
            input_example=input_example(generator, example),
        )
    # MLflow records absolute paths of this machine: replace them with relative ones.
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = _SCRIPT.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(target / "MLmodel"))
    for cache in target.rglob("__pycache__"):
        shutil.rmtree(cache)
    for file, source in card.items():
        shutil.copyfile(source, target / file)
    text = model_card(
        name=name, generator=generator, figure=figure, figures=figures, tags=tags, files=card, notes=notes
    )
    (target / "README.md").write_text(text, encoding="utf-8")
    fid = figure if figure["name"] == FID else next((other for other in figures if other["name"] == FID), figure)
    objective = {} if fid == figure else {"objective": figure}
    write_json(target / METRICS, {"fid": fid, **objective, "figures": list(figures)})
    return write_manifest(target)
