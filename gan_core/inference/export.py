"""Export a generator as a single file for other programs: ONNX, or a torch program (``.pt2``) that needs no code of Gantry."""

import importlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gan_core.errors import SettingsError
from gan_core.files import apply_umask, atomic_write
from gan_core.inference.generator import Generator
from gan_core.inference.graphs import OUTPUT, Graph, graph_of

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
"""Suffix of an exported file of each format."""
METADATA = "gantry"
"""Name of the metadata: a property of the ONNX model, or of the torch program's extra file ``gantry.json``."""
TOLERANCE = 1e-4
"""Largest difference between pictures of the exported file and of the generator, at values from 0 to 1."""
_EXTRA = "gantry.json"
_LARGEST_ONNX = 2**31 - 2**20
"""ONNX files are protobuf messages, which hold less than 2 GiB."""
_CHECKED = (1, 3)
"""Numbers of pictures to compare after the export. The graph is made with two."""


@dataclass(frozen=True)
class Exported:
    """What :func:`export_generator` wrote."""

    inputs: tuple[str, ...]
    """Names of the inputs."""
    difference: float
    """The largest difference to the generator's pictures, at values from 0 to 1."""


def export_generator(
    generator: Generator,
    out: Path,
    *,
    format: Format,
    target: str | None = None,
    version: Mapping[str, Any] | None = None,
) -> Exported:
    """Write ``generator`` to the file ``out`` atomically, and compare its pictures with the generator's before the rename.

    The inputs are those of :mod:`gan_core.inference.graphs`. The number of pictures is dynamic, their size is fixed.

    Args:
        generator: a generator on the CPU.
        out: the file; an existing one is replaced.
        format: ``onnx``, or ``torch`` for :func:`torch.export.load`.
        target: direction, for a generator with a network for each (cyclegan).
        version: additional metadata, such as the registered model and its version.

    Raises:
        SettingsError: a package that the format needs is missing, the generator is too large for the format, the pictures
            of the file differ by more than :data:`TOLERANCE`, or ``target`` does not fit.
    """
    if format == "onnx":
        _check_packages()
    graph = graph_of(generator, target)
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if format == "onnx" and size > _LARGEST_ONNX:
        raise SettingsError(
            f"This generator has {size / 2**30:.1f} GiB of weights, but an ONNX file holds less than 2 GiB. Use --format torch."
        )
    described = describe_export(generator, graph, version or {})
    with torch.no_grad(), _quiet(), atomic_write(out) as temporary:
        pictures = (_write_onnx if format == "onnx" else _write_torch)(graph, temporary, described)
        apply_umask(temporary)
        differences = [_difference(graph, pictures, n) for n in _CHECKED]
        difference = max(differences, key=lambda one: (math.isnan(one), one))  # max alone may lose a NaN
        if not difference <= TOLERANCE:
            raise SettingsError(
                f"The pictures of the exported file differ from the generator's by {difference:.2g}, more than {TOLERANCE:g}. "
                f"{out} is not written. Please report this with the family ({generator.info['family']}) and its settings."
            )
    return Exported(tuple(one.name for one in graph.inputs), difference)


def describe_export(generator: Generator, graph: Graph, version: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of an exported file: what it contains, where it comes from, and how to call it."""
    info = generator.info
    kept = {name: info[name] for name in ("step", "dataset", "classes", "attributes") if info.get(name)}
    target = getattr(graph, "fixed", None)
    return {
        **version,
        "generator": generator.digest,
        "family": info["family"],
        **kept,
        **({} if target is None else {"target": target}),
        "inputs": {one.name: one.description for one in graph.inputs},
        "output": {OUTPUT: graph.output},
    }


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a file from :func:`export_generator`.

    Raises:
        SettingsError: a package that the format needs is missing.
        KeyError: the file has no such metadata.
    """
    if path.suffix == SUFFIXES["onnx"]:
        _check_packages()
        model = importlib.import_module("onnx").load(path, load_external_data=False)
        return json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA])
    extra = {_EXTRA: ""}
    with _quiet():
        torch.export.load(path, extra_files=extra)
    if not extra[_EXTRA]:
        raise KeyError(METADATA)
    return json.loads(extra[_EXTRA])


def _write_onnx(graph: Graph, path: Path, described: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Write the file; returns a function that runs it."""
    names = [one.name for one in graph.inputs]
    example, _ = graph.example(2, 0)
    program = torch.onnx.export(
        graph,
        example,
        dynamo=True,
        input_names=names,
        output_names=[OUTPUT],
        dynamic_shapes=_dynamic(graph),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    for value, one in zip(model.graph.inputs, graph.inputs, strict=True):
        value.doc_string = one.description
    model.graph.outputs[0].doc_string = graph.output
    model.metadata_props[METADATA] = json.dumps(described)
    program.save(str(path), external_data=False)
    session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run([OUTPUT], given)[0])

    return run


def _write_torch(graph: Graph, path: Path, described: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Write the file; returns a function that runs it."""
    example, _ = graph.example(2, 0)
    program = torch.export.export(graph, example, dynamic_shapes=_dynamic(graph))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    named = path.with_suffix(SUFFIXES["torch"])  # torch warns about other suffixes
    torch.export.save(program, named, extra_files={_EXTRA: json.dumps(described)})
    named.rename(path)
    return torch.export.load(path).module()


def _dynamic(graph: Graph) -> tuple[Any, ...]:
    """The dimensions of the inputs that may vary: the number of pictures."""
    count = torch.export.Dim("N")
    first, *others = ({0: count} if one.batched else {} for one in graph.inputs)
    return (first, tuple(others)) if others else (first,)


def _difference(graph: Graph, pictures: Callable[..., Tensor], n: int) -> float:
    """The largest difference between ``n`` pictures of the file and of the generator; NaN if either has one."""
    inputs, expected = graph.example(n, 1)
    return (pictures(*inputs) - expected).abs().max().item()


def _check_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SettingsError(
                f"--format onnx needs the package {name}, which cannot be imported ({error}). Install the extra: "
                "pip install 'gantry-gan[onnx]'. Or use --format torch."
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' warnings about torch's own code."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
