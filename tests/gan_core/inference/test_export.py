"""An exported file gives the generator's pictures without Gantry's code, for any number of pictures."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import Family
from gan_core.images.tensors import to_uint8
from gan_core.inference import export as module
from gan_core.inference.export import export_generator, read_metadata
from gan_core.inference.generator import Generator, load_generator, save_generator
from gan_core.inference.graphs import graph_of
from tests.gan_core.families.conftest import SMALL
from tests.gan_core.families.conftest import small as small_from_noise
from tests.gan_core.families.translations import VARIANTS
from tests.gan_core.families.translations import small as small_translation

INPUTS = {
    "dcgan": ["latent"],
    "cgan": ["latent", "label"],
    "biggan": ["latent", "label"],
    "stylegan2": ["latent", "label", "truncation"],
    "r3gan": ["latent"],
    "pix2pix": ["picture", "noise"],
    "colourisation": ["picture", "noise"],
    "cyclegan": ["picture"],
    "stargan": ["picture", "target"],
    "attributes": ["picture", "target"],
    "stargan2": ["picture", "target", "noise"],
}
"""The inputs of each family, and of its forms that differ in the exported graph."""


def generator_of(name: str, place: Path) -> Generator:
    family: Family = small_from_noise(name) if name in SMALL else small_translation(name)
    family.update_statistics(family.networks)  # without them, fresh weights give a constant grey
    shape = family.shape
    names = {
        "classes": ["boot", "bag", "hat"][: shape.classes],
        "attributes": ["red", "big", "old"][: shape.attributes],
    }
    save_generator(place, family=family, extra={"dataset": "d" * 64, "step": 7, **names})
    return load_generator(place)


def test_the_table_has_all_families() -> None:
    assert set(INPUTS) == {*SMALL, *VARIANTS} - {"contrastive"}  # its translations are those of cyclegan


@pytest.mark.parametrize("name", INPUTS)
def test_onnx_runtime_gives_the_generators_pictures(name: str, tmp_path: Path) -> None:
    generator, out = generator_of(name, tmp_path / "generator"), tmp_path / "file.onnx"
    exported = export_generator(generator, out, format="onnx", version={"model": "shoes/3", "gantry": "9.9"})
    assert list(exported.inputs) == INPUTS[name]
    assert exported.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == INPUTS[name]
    assert [value.shape[0] for value in session.get_inputs() if value.shape] == ["N"] * len(
        [one for one in INPUTS[name] if one != "truncation"]
    )
    for n in (1, 5):
        inputs, expected = graph_of(generator).example(n, seed=3)
        (made,) = session.run(["image"], {key: x.numpy() for key, x in zip(INPUTS[name], inputs, strict=True)})
        assert np.abs(made - expected.numpy()).max() <= 1e-4
        assert expected.std() > 0.01  # the comparison sees something
    if not generator.translates:
        psi = 0.7 if "truncation" in INPUTS[name] else None
        pictures = to_uint8(torch.from_numpy(made) * 2 - 1).int()
        assert (pictures - generator.sample(5, 3, truncation=psi).int()).abs().max() <= 1  # rounding
    found = read_metadata(out)
    assert (found["model"], found["gantry"], found["generator"]) == ("shoes/3", "9.9", generator.digest)
    assert list(found["inputs"]) == INPUTS[name]
    assert str(Path(module.__file__).parents[2]).encode() not in out.read_bytes()  # no path of this machine


@pytest.mark.parametrize("name", ["stylegan2", "stargan2"])
def test_a_torch_program_gives_the_generators_pictures(name: str, tmp_path: Path) -> None:
    generator, out = generator_of(name, tmp_path / "generator"), tmp_path / "file.pt2"
    assert export_generator(generator, out, format="torch", version={"model": "shoes/3"}).difference <= 1e-4
    program = torch.export.load(out).module()
    inputs, expected = graph_of(generator).example(4, seed=3)
    torch.testing.assert_close(program(*inputs), expected, atol=1e-4, rtol=0)
    assert read_metadata(out)["model"] == "shoes/3"
    with zipfile.ZipFile(out) as file:
        text = b"".join(file.read(entry) for entry in file.namelist() if entry.endswith(".json"))
    assert str(Path(module.__file__).parents[2]).encode() not in text


def test_the_metadata_says_what_each_input_is(tmp_path: Path) -> None:
    generator = generator_of("stylegan2", tmp_path / "generator")
    found = module.describe_export(generator, graph_of(generator), {})
    assert found["inputs"] == {
        "latent": "float32 (N, 32), N(0, 1)",
        "label": "int64 (N,), the class: 0 is boot, 1 is bag",
        "truncation": "float32 (), psi; 1 does not truncate, 0 gives the mean",
    }
    assert (found["family"], found["dataset"], found["step"], found["classes"]) == (
        "stylegan2",
        "d" * 64,
        7,
        ["boot", "bag"],
    )
    json.dumps(found)


def test_each_direction_of_cyclegan_is_a_file_of_its_own(tmp_path: Path) -> None:
    generator = generator_of("cyclegan", tmp_path / "generator")
    there, back = (graph_of(generator, target) for target in ("bag", "boot"))
    assert [module.describe_export(generator, graph, {})["target"] for graph in (there, back)] == [1, 0]
    assert not torch.equal(there.example(1, 0)[1], back.example(1, 0)[1])
    with pytest.raises(SettingsError, match=r"target hat: unknown domain\. Choose one of boot \(0\), bag \(1\)"):
        graph_of(generator, "hat")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dcgan", "--target bag: dcgan generates from noise"),
        ("pix2pix", "--target bag: pix2pix has only one direction"),
        ("stargan", "--target bag: the target is an input of the exported file"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        graph_of(generator_of(name, tmp_path / "generator"), "bag")


def test_a_file_whose_pictures_differ_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, out = generator_of("dcgan", tmp_path / "generator"), tmp_path / "file.pt2"
    out.write_text("before")
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(SettingsError, match="pictures of the exported file differ"):
        export_generator(generator, out, format="torch")
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pt2", "generator"]


def test_a_file_that_gives_nan_for_some_numbers_of_pictures_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_difference", lambda graph, pictures, n: 0.0 if n == 1 else math.nan)
    monkeypatch.setattr(module, "_write_torch", lambda graph, path, described: path.touch())
    with pytest.raises(SettingsError, match="differ from the generator's by nan"):
        export_generator(generator_of("dcgan", tmp_path / "generator"), tmp_path / "file.pt2", format="torch")
    assert not (tmp_path / "file.pt2").exists()


def test_without_the_packages_onnx_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    generator = generator_of("dcgan", tmp_path / "generator")
    with pytest.raises(SettingsError, match=r"needs the package onnxscript.*pip install 'gantry-gan\[onnx\]'"):
        export_generator(generator, tmp_path / "file.onnx", format="onnx")


def test_weights_beyond_the_limit_of_onnx_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_ONNX", 1000)
    generator = generator_of("dcgan", tmp_path / "generator")
    with pytest.raises(SettingsError, match="an ONNX file holds less than 2 GiB. Use --format torch"):
        export_generator(generator, tmp_path / "file.onnx", format="onnx")
