"""An exported generator is a folder without pickle; its pictures are functions of (seed, index); damage is refused."""

import json
import math
import pickle
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from gan_core.errors import CheckpointError, GantryError, SettingsError
from gan_core.families import FAMILIES, ImageShape, build_family, family_config
from gan_core.families.dcgan import DcganConfig
from gan_core.files import sha256_file
from gan_core.images.tensors import to_uint8
from gan_core.inference.edit import Edit, Editor
from gan_core.inference.generator import Generator, load_generator, save_generator
from gan_core.inference.together import draw, sample_together


def export(directory: Path, **settings) -> Path:
    torch.manual_seed(0)
    config = DcganConfig(**{"width": 8, "latent": 10, "init": "he", **settings})
    family = build_family("dcgan", config, ImageShape(channels=3, height=16, width=20))
    family.update_statistics({"generator": family.networks["generator"]})
    save_generator(directory, family=family, extra={"dataset": "d" * 64, "classes": ["a"], "step": 7})
    return directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("generator") / "exported")


def test_an_exported_folder_has_a_description_and_safetensors_only(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["generator.json", "generator.safetensors"]
    info = json.loads((folder / "generator.json").read_text())
    assert info["family"] == "dcgan"
    assert info["config"]["latent"] == 10
    assert {name: value for name, value in info["shape"].items() if value} == {"channels": 3, "height": 16, "width": 20}
    assert (info["dataset"], info["step"]) == ("d" * 64, 7)


def test_sample_returns_deterministic_uint8_pictures(folder: Path) -> None:
    pictures = load_generator(folder).sample(5, seed=3)
    assert pictures.shape == (5, 3, 16, 20)
    assert pictures.dtype == torch.uint8
    assert torch.equal(load_generator(folder).sample(5, seed=3), pictures)
    assert not torch.equal(load_generator(folder).sample(5, seed=4), pictures)
    assert pictures.float().std() > 5  # not a constant grey


def test_picture_i_of_a_seed_does_not_depend_on_the_batch(folder: Path) -> None:
    generator = load_generator(folder)
    whole = generator.sample(150, seed=1).int()
    for first, n in ((0, 1), (3, 10), (60, 70), (149, 1)):
        assert (generator.sample(n, seed=1, first=first).int() - whole[first : first + n]).abs().max() <= 1


def test_truncation_reduces_the_spread_of_pictures(folder: Path) -> None:
    generator = load_generator(folder)
    spreads = [generator.sample(64, 0, truncation=t).float().std(dim=0).mean().item() for t in (0.1, 0.5, None)]
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.5 * spreads[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "seed": 0}, "n: must be 1 or more, got 0"),
        ({"n": 1, "seed": -1}, "seed: must be 0 or more, got -1"),
        ({"n": 1, "seed": 0, "label": 0}, "label: dcgan is unconditional"),
        ({"n": 1, "seed": 0, "truncation": 0.0}, "truncation: must be above 0"),
    ],
)
def test_invalid_arguments_are_refused_by_name(folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_generator(folder).sample(**arguments)


def test_the_digest_depends_on_weights_and_settings(folder: Path, tmp_path: Path) -> None:
    """The prior is a setting, not a weight, but it changes the pictures, so it changes the digest."""
    same, other = export(tmp_path / "same"), tmp_path / "other"
    shutil.copytree(folder, other)
    info = json.loads((other / "generator.json").read_text())
    info["config"]["prior"] = "normal"
    (other / "generator.json").write_text(json.dumps(info))
    generators = [load_generator(path) for path in (folder, same, other)]
    assert generators[0].digest == generators[1].digest != generators[2].digest
    assert not torch.equal(generators[0].sample(4, 0), generators[2].sample(4, 0))


@pytest.mark.parametrize("harm", ["no folder", "no description", "half a description", "no weights", "cut weights"])
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, harm: str) -> None:
    copy = tmp_path / "copy"
    if harm != "no folder":
        shutil.copytree(folder, copy)
    description, weights = copy / "generator.json", copy / "generator.safetensors"
    if harm == "no description":
        description.unlink()
    elif harm == "half a description":
        description.write_text(description.read_text()[:50])
    elif harm == "no weights":
        weights.unlink()
    elif harm == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="missing|damaged"):
        load_generator(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, [1, 2]),
        ("weights_sha256", None),
        ("family", None),
        ("config", None),
        ("shape", None),
        ("shape", {"channels": 3, "height": 16, "width": 20, "depth": 1}),
        ("shape", {"channels": 1, "height": 16, "width": 20}),
        ("shape", {"channels": 3, "height": "16", "width": 20}),
        ("family", "r3gan"),
    ],
)
def test_a_description_that_does_not_fit_the_weights_is_refused_by_name(
    folder: Path, tmp_path: Path, key: str | None, value: object
) -> None:
    """``key`` None replaces the whole description; ``value`` None removes the key."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    info = json.loads((copy / "generator.json").read_text())
    changed = value if key is None else {name: old for name, old in {**info, key: value}.items() if old is not None}
    if key == "family" and value:
        changed["config"] = {}
    (copy / "generator.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=r"copy/generator\..*export or download the generator again"):
        load_generator(copy)


def test_weights_and_description_have_the_same_permissions(folder: Path) -> None:
    """A server that runs as a different user can read both or neither."""
    assert (folder / "generator.safetensors").stat().st_mode == (folder / "generator.json").stat().st_mode


def test_unknown_settings_of_the_family_are_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    info = json.loads((copy / "generator.json").read_text())
    info["config"]["slop"] = 1
    (copy / "generator.json").write_text(json.dumps(info))
    with pytest.raises(SettingsError, match=r"generator\.json: Unknown setting 'config\.slop'\. Did you mean 'slope'"):
        load_generator(copy)


def test_to_uint8_rounds_to_nearest_and_clips() -> None:
    values = torch.tensor([-1.5, -1, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.999, 1, 3])
    assert to_uint8(values).tolist() == [0, 0, 1, 2, 255, 255, 255]


def test_standing_statistics_are_means_over_batches_with_the_current_weights() -> None:
    """With them, the network in evaluation mode agrees with its batch statistics; those of training are replaced."""
    torch.manual_seed(0)
    config = DcganConfig(width=8, latent=10, init="he")
    family = FAMILIES["dcgan"](config, ImageShape(channels=1, height=16, width=16))
    network = family.networks["generator"]
    norm = network.layers[0]
    norm.running_mean.fill_(99)
    family.update_statistics({"generator": network})
    assert not network.training
    assert norm.momentum == 0.1
    with torch.no_grad():
        whole = network.project(family_latents(1024)).view(-1, *network.base)
    torch.testing.assert_close(norm.running_mean, whole.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    family.update_statistics({"generator": network})
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


# -- image to image --------------------------------------------------------------------------------------------------


def translating(directory: Path, name: str, **extra: list[str]) -> Generator:
    torch.manual_seed(0)
    settings = {
        "stargan": {"width": 4, "blocks": 1, "critic_width": 4},
        "stargan2": {"width": 4, "width_max": 8, "latent": 4, "hidden": 8, "style": 8},
        "pix2pix": {"width": 4, "patch_halvings": 1},
    }
    shape = ImageShape(channels=3, height=16, width=16, classes=3, condition_channels=1)
    family = build_family(name, family_config(name, settings[name]), shape)
    save_generator(directory, family=family, extra=extra)
    return load_generator(directory)


@pytest.mark.parametrize("size", [(16, 16), (19, 33), (1, 5)])
def test_pictures_of_any_size_are_translated_in_batches_as_one_by_one(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = translating(tmp_path, "pix2pix")
    images = torch.randint(0, 256, (5, 1, *size), dtype=torch.uint8)
    whole = generator.translate(images, seed=2)
    assert whole.shape == (5, 3, *size)
    assert whole.dtype is torch.uint8
    monkeypatch.setattr("gan_core.inference.generator._PIXELS", 2 * size[0] * size[1])
    assert (generator.translate(images, seed=2).int() - whole.int()).abs().max() <= 1
    assert (generator.translate(images[3:], seed=2, first=3).int() - whole[3:].int()).abs().max() <= 1


def test_pictures_of_any_size_take_reference_styles_in_batches_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = translating(tmp_path, "stargan2", classes=["ape", "bee", "cat"])
    assert generator.takes_styles
    images = torch.randint(0, 256, (5, 3, 19, 33), dtype=torch.uint8)
    references = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    whole = generator.translate_like(images, references, 1)
    monkeypatch.setattr("gan_core.inference.generator._PIXELS", 2 * 19 * 33)
    assert (generator.translate_like(images, references, 1).int() - whole.int()).abs().max() <= 1
    with pytest.raises(SettingsError, match=r"unknown domain 3\. Choose one of ape \(0\), bee \(1\), cat \(2\)"):
        generator.translate_like(images, references, 3)
    with pytest.raises(SettingsError, match=r"references: got 4 for 5 pictures\. Give one for each"):
        generator.translate_like(images, references[:4], 1)


def test_an_unknown_target_is_refused_with_the_names_of_known_ones(tmp_path: Path) -> None:
    generator = translating(tmp_path, "stargan", classes=["ape", "bee", "cat"])
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(SettingsError, match=r"unknown domain 3\. Choose one of ape \(0\), bee \(1\), cat \(2\)"):
        generator.translate(images, 3)
    with pytest.raises(SettingsError, match="seed: must be 0 or more, got -1"):
        generator.translate(images, 0, -1)


def test_generators_refuse_translating_or_sampling_if_they_cannot(folder: Path, tmp_path: Path) -> None:
    drawing, translator = load_generator(folder), translating(tmp_path, "pix2pix")
    assert (drawing.translates, translator.translates) == (False, True)
    with pytest.raises(SettingsError, match="dcgan cannot translate images; it can generate images from noise"):
        drawing.translate(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(SettingsError, match="pix2pix cannot generate images from noise"):
        translator.sample(1, 0)


def family_latents(n: int) -> torch.Tensor:
    from gan_core.families.noise import latents_from_uniform
    from gan_core.randomness import sampling_uniform

    return latents_from_uniform(sampling_uniform(0, n, 10, 0), "uniform", None)


def header(content: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content)) + content + data


def tensor_table(**tensors: list[int]) -> bytes:
    """A safetensors header for consecutive float32 tensors of these shapes."""
    table, at = {}, 0
    for name, shape in tensors.items():
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * math.prod(shape)]}
        at += 4 * math.prod(shape)
    return json.dumps(table).encode()


WEIGHTS_OF_SOMETHING_ELSE = {
    "empty": b"",
    "three bytes": b"abc",
    "a header longer than the file": struct.pack("<Q", 2**60) + b"{}",
    "a header of brackets": header(b"[" * 100_000),
    "a header that is not an object": header(b"[]"),
    "terabytes of missing data": header(tensor_table(a=[10**12])),
    "an overflowing number of elements": header(tensor_table(a=[2**40, 2**40]), bytes(16)),
    "unexpected tensors": header(tensor_table(a=[2]), bytes(8)),
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("content", WEIGHTS_OF_SOMETHING_ELSE)
def test_invalid_weights_with_a_valid_checksum_are_refused_by_name(folder: Path, tmp_path: Path, content: str) -> None:
    copy = forged(folder, tmp_path, weights=WEIGHTS_OF_SOMETHING_ELSE[content])
    with pytest.raises(CheckpointError, match=r"copy/generator\..*export or download the generator again"):
        load_generator(copy)


def forged(folder: Path, tmp_path: Path, weights: bytes | None = None, description: str | None = None, **info) -> Path:
    """A copy of an export with changed content and a matching checksum."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if weights is not None:
        (copy / "generator.safetensors").write_bytes(weights)
    table = json.loads((copy / "generator.json").read_text()) | info
    table["weights_sha256"] = sha256_file(copy / "generator.safetensors")
    (copy / "generator.json").write_text(description or json.dumps(table))
    return copy


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"config": {"width": 10**9, "latent": 10}}, "does not match its weights"),
        ({"config": {"width": 16, "latent": 10}}, "in the weights, but is described as"),
        ({"shape": {"channels": 3, "height": 2**40, "width": 2**40}}, "export or download the generator again|pixels"),
        ({"shape": {"channels": 3, "height": 16.0, "width": 20}}, "shape.height: expected a whole number, got 16.0"),
        ({"classes": 5}, "classes is 5, not a list of names"),
        ({"classes": [["a"]]}, "classes is"),
        ({"class_shares": ["a"]}, "class_shares is"),
        ({"dataset": ["x" * 10_000]}, "dataset is .{80}"),
        ({"step": "7"}, "step is '7'"),
        ({"family": 5}, "family is 5"),
        ({"family": ["dcgan"]}, "family is"),
        ({"config": [1]}, "config is"),
    ],
)
def test_a_description_with_wrong_types_is_refused_by_name(
    folder: Path, tmp_path: Path, info: dict, words: str
) -> None:
    with pytest.raises(GantryError, match=rf"copy/generator\.json.*({words})"):
        load_generator(forged(folder, tmp_path, **info))


def test_a_description_of_terabytes_takes_no_memory(folder: Path, tmp_path: Path) -> None:
    """The first layer alone of a DCGAN of this width would take gigabytes."""
    copy = forged(folder, tmp_path, config={"width": 2**24, "latent": 2**14})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="described as"):
        load_generator(copy)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_a_depth_of_a_billion_is_refused_before_it_is_built(tmp_path: Path) -> None:
    generator = translating(tmp_path, "stargan")
    assert generator.translates
    (found,) = tmp_path.rglob("generator.json")
    info = json.loads(found.read_text())
    info["config"]["blocks"] = 10**9
    found.write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="more than 10000 tensors"):
        load_generator(found.parent)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\ufeff{}", "NaN", "\udcff"],
    ids=["brackets", "tables", "digits", "mark", "nan", "bytes"],
)
def test_an_invalid_description_file_is_refused_by_name(folder: Path, tmp_path: Path, text: str) -> None:
    copy = forged(folder, tmp_path)
    (copy / "generator.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        CheckpointError, match=r"generator\.json is damaged .*export or download the generator again"
    ) as refused:
        load_generator(copy)
    assert str(refused.value).count("generator.json") == 1


def test_finite_weights_whose_pictures_overflow_are_an_error_and_not_black_pictures(
    folder: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "generator"
    shutil.copytree(folder, copied)
    tensors = load_file(copied / "generator.safetensors")
    (copied / "generator.safetensors").write_bytes(
        save({name: value * 1e20 if value.ndim > 1 else value for name, value in tensors.items()})
    )
    described = json.loads((copied / "generator.json").read_text())
    described["weights_sha256"] = sha256_file(copied / "generator.safetensors")
    (copied / "generator.json").write_text(json.dumps(described))
    generator = load_generator(copied)
    for make in (
        lambda: generator.sample(2, 0),
        lambda: generator.walk(2, 0, frames=2),
        lambda: Editor(generator, 2).render(Edit()),
        lambda: sample_together(generator, [draw(generator, 2, 0)]),
    ):
        with pytest.raises(CheckpointError, match="makes pictures with NaN.*training diverged"):
            make()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path, value: float) -> None:
    tensors = load_file(folder / "generator.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 4)
    tensors[name].view(-1)[3] = value
    copy = forged(folder, tmp_path, weights=save(tensors))
    with pytest.raises(CheckpointError, match=rf"contain NaN or infinity \({name}\)"):
        load_generator(copy)
