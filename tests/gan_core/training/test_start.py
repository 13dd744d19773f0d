"""A run that starts from an earlier one: what is taken, what is adapted, and what is refused."""

import dataclasses
import functools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.data import PreparedDataset
from gan_core.errors import CheckpointError, SettingsError
from gan_core.families import family_config
from gan_core.training.config import TrainConfig
from gan_core.training.start import OPTIMISERS, WEIGHTS, open_start
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared
from tests.gan_core.families import translations
from tests.gan_core.training.runs import final

Build = Callable[..., Trainer]
SMALL = {
    "dcgan": {"width": 8, "latent": 8},
    "cgan": {"width": 8, "latent": 8, "embedding": 4},
    "stylegan2": {"channel_base": 128, "channel_max": 8, "latent": 8, "style": 8, "mapping_layers": 2},
    "r3gan": {"width": 16, "width_max": 16, "latent": 8, "blocks": 1},
    "biggan": {"width": 4, "latent": 8},
}


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """A function that builds a trainer on blobs in ``tmp_path/NAME``."""

    def make(
        name: str,
        family: str = "dcgan",
        *,
        size: int = 16,
        channels: int = 1,
        classes: tuple[str, ...] = (),
        model: dict[str, Any] | None = None,
        start: Path | None = None,
        **settings: Any,
    ) -> Trainer:
        data = tmp_path / f"data-{size}-{channels}-{'-'.join(classes)}"
        if not data.is_dir():
            labels = np.arange(32) % len(classes) if classes else None
            write_prepared(data, blobs(32, size=size, channels=channels), labels)
        dataset = PreparedDataset(data, tmp_path / "decoded")
        if classes:
            dataset.info = dataclasses.replace(dataset.info, classes=classes)
        seldom = {
            "log_every": 4,
            "sample_every": 100,
            "checkpoint_every": 4,
            "steps": 8,
            "batch": 8,
            "precision": "fp32",
        }
        config = TrainConfig(**{**seldom, **({"start_from": "there"} if start else {}), **settings})
        return Trainer(
            family,
            family_config(family, {**SMALL[family], **(model or {})}),
            dataset,
            config,
            tmp_path / name,
            device="cpu",
            start=open_start(start, "faces/3") if start else None,
        )

    return make


@pytest.fixture
def parent(build: Build, tmp_path: Path) -> Callable[..., Path]:
    """A function that trains a run for 8 steps, and returns its start folder."""

    def make(family: str = "dcgan", **options: Any) -> Path:
        trainer = build("parent", family, **options)
        trainer.run()
        trainer.export_start(tmp_path / "start")
        return tmp_path / "start"

    return make


def measured(trainer: Trainer) -> Trainer:
    """The trainer, after the statistics of its averaged networks are measured, as in a start folder."""
    trainer.generator.update_statistics()
    return trainer


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer._state.tensors().items()}


# -- what is taken -----------------------------------------------------------------------------------------------------------


def test_networks_and_averages_are_taken_and_the_count_of_images_goes_on(build: Build, parent, tmp_path: Path) -> None:
    start = parent()
    earlier, later = tensors(measured(build("parent"))), build("child", start=start, seed=1)
    assert later.step == 0
    now = tensors(later)
    assert {name for name in now if name.startswith("averaged.")}
    for name, tensor in now.items():
        # Statistics of batch norm in the averaged networks are measured whenever they are needed.
        if not name.startswith("averaged.") or not name.endswith(
            ("running_mean", "running_var", "num_batches_tracked")
        ):
            assert torch.equal(tensor, earlier[name]), name
    assert not any(name.startswith("optimiser.") for name in now)
    later.run(until=4)
    later.export_start(tmp_path / "again")
    again = open_start(tmp_path / "again")
    assert (open_start(start).images_seen, again.images_seen) == (8 * 8, 12 * 8)


def test_the_moments_of_the_optimisers_are_taken_by_choice(build: Build, parent) -> None:
    start = parent(save_start="full")
    now = tensors(build("child", start=start, start_optimisers=True))
    earlier = tensors(build("parent", save_start="full"))
    moments = [name for name in now if name.startswith("optimiser.")]
    assert moments
    assert all(torch.equal(now[name], earlier[name]) for name in moments)


@pytest.mark.parametrize("family", ["dcgan", "biggan", "stylegan2"])
def test_what_a_later_run_needs_has_the_same_bytes_whatever_was_measured_before(
    family: str, build: Build, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"family": family, "classes": ("a", "b") if family == "biggan" else (), "sample_every": 4}
    trainer = build("run", **options)
    trainer.run()
    trainer.export_start(tmp_path / "a")
    trainer.generator.update_statistics(2)
    trainer.export_start(tmp_path / "b")
    build("run", **options).export_start(tmp_path / "c")  # resumed at the last step
    assert len({(tmp_path / name / "start.json").read_bytes() for name in "abc"}) == 1


def test_only_what_the_run_keeps_is_written(parent) -> None:
    start = parent()
    assert sorted(path.name for path in start.iterdir()) == ["start.json", WEIGHTS]


def test_a_run_with_the_same_settings_without_a_start_is_another_run(build: Build, parent) -> None:
    build("child", start=parent()).run()
    with pytest.raises(CheckpointError, match="train.start: '[0-9a-f]{64}' in the checkpoint, None in this run"):
        build("child")


def test_the_strength_of_adaptive_augmentation_goes_on(build: Build, parent) -> None:
    start = parent(augment=_ada(), steps=4)  # one adjustment
    child = build("child", start=start, augment=_ada())
    assert torch.equal(child.augmenter.strength, build("parent", augment=_ada()).augmenter.strength)
    assert not torch.equal(child.augmenter.strength, build("fresh", augment=_ada()).augmenter.strength)


def _ada() -> Any:
    from gan_core.augment import AugmentConfig

    return AugmentConfig(kind="ada", speed_kimg=1)


def test_the_warm_up_raises_both_rates_linearly(build: Build) -> None:
    trainer = build("run", warm_up_kimg=8 * 4 / 1000, generator_lr=1e-3, discriminator_lr=2e-3)
    rates = []
    for step in range(6):
        trainer.run(until=step + 1)
        rates.append([trainer.optimisers[side].lr for side in ("generator", "discriminator")])
    assert rates == [pytest.approx([1e-3 * share, 2e-3 * share]) for share in (0.25, 0.5, 0.75, 1, 1, 1)]


@pytest.mark.parametrize("family", ["dcgan", "cgan", "stylegan2"])
def test_frozen_layers_of_the_discriminator_keep_their_weights(family: str, build: Build, parent) -> None:
    """From the picture: the first two layers, and nothing else."""
    classes = ("a", "b") if family == "cgan" else ()
    start = parent(family, classes=classes, save_start="full")
    child = build("child", family, classes=classes, start=start, start_optimisers=True, freeze_discriminator=2)
    layers = child.family.discriminator_layers("discriminator")
    before = [[parameter.detach().clone() for parameter in layer] for layer in layers]
    child.run(until=2)
    changed = [
        any(not torch.equal(old, new) for old, new in zip(one, other, strict=True))
        for one, other in zip(before, layers, strict=True)
    ]
    assert changed[:2] == [False, False]
    assert all(changed[2:])
    first = next(child.family.networks["discriminator"].parameters())
    assert any(first is parameter for parameter in layers[0]), "layers are counted from the picture"


def test_the_layers_of_r3gan_are_counted_from_the_picture(build: Build) -> None:
    family = build("run", "r3gan").family
    network = family.networks["discriminator"]
    layers = family.discriminator_layers("discriminator")
    assert layers[0][0] is network.picture.weight
    assert layers[1][0] is network.stages[0][0].widen.weight
    assert sum(map(len, layers)) == len(list(network.parameters()))


def test_all_layers_of_the_discriminator_cannot_be_frozen(build: Build, parent) -> None:
    with pytest.raises(SettingsError, match=r"freeze_discriminator: .* has 3 layers, .*Set it to at most 2"):
        build("child", start=parent(), freeze_discriminator=3)
    with pytest.raises(SettingsError, match="freeze_discriminator: needs a run to start from"):
        TrainConfig(freeze_discriminator=1)


@pytest.mark.parametrize(("family", "kept"), [("stylegan2", 0), ("r3gan", 1)])
def test_layers_that_the_earlier_run_does_not_have_cannot_be_frozen(
    family: str, kept: int, build: Build, parent, tmp_path: Path
) -> None:
    """They would keep random weights. Those of larger pictures are the first ones."""
    start = parent(family)
    remedy = f"Set it to {'at most 1' if kept else '0'}"
    with pytest.raises(SettingsError, match=rf"freeze_discriminator: layer {kept + 1} of .* is new .*{remedy}"):
        build("child", family, size=32, start=start, freeze_discriminator=2)
    if kept:
        build("other", family, size=32, start=start, freeze_discriminator=kept)


@pytest.mark.parametrize(("slots", "kept"), [(4, 4), (8, 0)])
def test_a_pool_of_generated_pictures_is_taken_whole_or_begins_empty(tmp_path: Path, slots: int, kept: int) -> None:
    data = translations.write_data("cyclegan", tmp_path / "data")
    earlier = translations.trainer_of("cyclegan", data, tmp_path / "earlier", {"pool": 4})
    earlier.run(until=3)
    earlier.export_start(tmp_path / "start")
    start, model = open_start(tmp_path / "start"), {"pool": slots}
    run = translations.trainer_of("cyclegan", data, tmp_path / "run", model, start=start, start_from="there")
    for domain in ("a", "b"):
        used = int(run.family.buffers[f"pooled_{domain}"])
        assert used == kept, "grey slots would count as generated pictures"
        pools = [trainer.family.buffers[f"pool_{domain}"][:used] for trainer in (run, earlier)]
        assert torch.equal(*pools)


# -- exact resume -------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_ends_with_the_same_bytes_even_if_its_start_is_gone(build: Build, parent, tmp_path: Path) -> None:
    start = parent()
    build("whole", start=start, warm_up_kimg=0.05).run()
    build("halves", start=start, warm_up_kimg=0.05).run(until=5)  # the last checkpoint is of step 4
    resumed = build("halves", start=start, warm_up_kimg=0.05)
    assert resumed.step == 4
    (start / WEIGHTS).unlink()
    build("halves", start=start, warm_up_kimg=0.05).run()
    assert final(tmp_path / "halves") == final(tmp_path / "whole")


def test_a_run_of_the_command_line_keeps_its_start_when_it_is_killed(parent, build: Build, tmp_path: Path) -> None:
    parent()
    build("data")
    command = functools.partial(_command, tmp_path)
    subprocess.run(command("whole"), check=True, capture_output=True)
    with subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "killed" / "checkpoints").glob("step-*[1-9]*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert final(tmp_path / "killed") == final(tmp_path / "whole")
    other = subprocess.run(command("killed", "elsewhere"), capture_output=True, text=True, check=False)
    assert "started from" in other.stderr
    assert "got elsewhere" in other.stderr


def _command(root: Path, out: str, start: str = "start") -> list[str]:
    options = {
        "data": root / "data-16-1-",
        "out": root / out,
        "start-from": root / start if start == "start" else start,
    }
    settings = {"steps": 40, "batch": 8, "checkpoint-every": 10, "log-every": 10, "precision": "fp32"}
    model = [f"--model={name}={value}" for name, value in SMALL["dcgan"].items()]
    return [sys.executable, "-m", "gan_core.train", *(f"--{k}={v}" for k, v in (options | settings).items()), *model]


# -- what is adapted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["cgan", "biggan", "stylegan2", "r3gan"])
def test_classes_are_found_by_name_and_a_new_one_begins_as_their_mean(family: str, build: Build, parent) -> None:
    model = {"conditional": True} if family in ("stylegan2", "r3gan") else {}
    start = parent(family, classes=("cat", "dog"), model=model)
    earlier = tensors(measured(build("parent", family, classes=("cat", "dog"), model=model)))
    child = build("child", family, classes=("ant", "dog", "cat"), model=model, start=start)
    now = tensors(child)
    rows = [name for name in now if now[name].shape != earlier[name].shape]
    assert any(name.startswith("network.generator.") for name in rows)
    assert any(name.startswith("network.discriminator.") for name in rows)
    for name in rows:
        cat, dog = earlier[name]
        torch.testing.assert_close(now[name], torch.stack([(cat + dog) / 2, dog, cat]))
    child.run(until=2)


def test_a_class_less_leaves_the_others_as_they_were(build: Build, parent) -> None:
    start = parent("cgan", classes=("cat", "dog", "eel"))
    before, child = (
        measured(build("parent", "cgan", classes=("cat", "dog", "eel"))),
        build("child", "cgan", classes=("cat", "eel"), start=start),
    )
    latents = torch.randn(2, 8)
    for network in (before.averaged.networks["generator"], child.averaged.networks["generator"]):
        network.eval()
    earlier = before.averaged.networks["generator"](latents, torch.tensor([0, 2]))
    torch.testing.assert_close(child.averaged.networks["generator"](latents, torch.tensor([0, 1])), earlier)


@pytest.mark.parametrize("family", ["dcgan", "stylegan2", "r3gan"])
def test_grey_becomes_colour_with_the_same_pictures_and_judgements(family: str, build: Build, parent) -> None:
    start = parent(family)
    before = measured(build("parent", family))
    child = build("child", family, channels=3, start=start)
    grey = before.generator.sample(4, 0)
    colour = child.generator.sample(4, 0)
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))
    images = torch.rand(6, 1, 16, 16) * 2 - 1
    judges = [trainer.family.networks["discriminator"].eval() for trainer in (before, child)]
    torch.testing.assert_close(judges[1](images.expand(-1, 3, -1, -1)), judges[0](images), rtol=1e-4, atol=1e-5)


def test_spectral_norm_changes_the_contrast_of_pictures_that_become_colour_and_says_so(
    build: Build, parent, caplog: pytest.LogCaptureFixture
) -> None:
    """Three equal channels have a singular value of sqrt(3), by which the layer before the picture is divided."""
    start = parent("biggan", classes=("cat", "dog"))
    before = measured(build("parent", "biggan", classes=("cat", "dog")))
    with caplog.at_level(logging.INFO):
        child = measured(build("child", "biggan", channels=3, start=start, classes=("cat", "dog")))
    assert "become pictures of 3, with other contrast and judgements (spectral norm)" in caplog.text
    grey, colour = (trainer.generator.sample(8, 0) for trainer in (before, child))
    assert torch.equal(colour, colour[:, :1].expand(-1, 3, -1, -1))
    logits = [torch.atanh((pictures[:, :1].double() / 127.5 - 1).clamp(-0.99, 0.99)) for pictures in (grey, colour)]
    middle = logits[0].abs() < 1  # far from the ends of the 8-bit scale
    assert (logits[0] - 3**0.5 * logits[1])[middle].abs().max() < 0.05


def test_colour_becomes_grey_with_the_mean_of_the_channels(build: Build, parent) -> None:
    start = parent(channels=3)
    now, earlier = tensors(build("child", start=start)), tensors(build("parent", channels=3))
    name = "network.discriminator.layers.0.weight"
    torch.testing.assert_close(now[name], earlier[name].sum(dim=1, keepdim=True))
    name = "averaged.generator.layers.5.weight"
    torch.testing.assert_close(now[name], earlier[name].mean(dim=1, keepdim=True))


def test_r3gan_grows_to_larger_pictures_that_look_the_same(build: Build, parent) -> None:
    """A new residual block begins as the identity, so that the larger picture is the smaller one, scaled up."""
    start = parent("r3gan")
    before, child = build("parent", "r3gan"), build("child", "r3gan", size=32, start=start)
    images = before.generator.sample(4, 0).float()
    larger = child.generator.sample(4, 0).float()
    down = torch.nn.functional.avg_pool2d(larger, 2)
    assert (down - images).abs().mean() < 0.05 * images.std()
    child.run(until=2)


def test_stylegan2_grows_and_shrinks_by_its_common_layers(build: Build, parent) -> None:
    start = parent("stylegan2")
    earlier = tensors(build("parent", "stylegan2"))
    child = build("child", "stylegan2", size=32, start=start)
    now = tensors(child)
    assert torch.equal(now["network.generator.synthesis.start"], earlier["network.generator.synthesis.start"])
    moved = "network.discriminator.blocks.{}.first.weight"
    assert torch.equal(now[moved.format(1)], earlier[moved.format(0)])
    child.run(until=2)


# -- what is refused ----------------------------------------------------------------------------------------------------------


def test_another_family_is_refused_by_name(build: Build, parent) -> None:
    with pytest.raises(
        SettingsError, match=r"faces/3 is a dcgan, and this run trains a r3gan .*Set model.family to dcgan"
    ):
        build("child", "r3gan", start=parent())


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (
            {"model": {"width": 16}},
            r"project.weight has shape .*Settings that differ: model.width \(8 there, 16 here\)",
        ),
        ({"size": 32}, "16x16 pixels become 32x32, and dcgan has other layers"),
        ({"size": 24}, "which is no factor of two"),
        ({"channels": 4}, r"1 channel\(s\) become pictures of 4; dcgan cannot adapt that"),
    ],
)
def test_networks_that_do_not_fit_are_refused_with_the_setting(changed, error: str, build: Build, parent) -> None:
    start = parent()
    with pytest.raises(SettingsError, match=f"cannot start from faces/3: .*{error}"):
        build("child", start=start, **changed)


def test_classes_that_the_earlier_data_does_not_have_are_refused_by_the_setting(build: Build, parent) -> None:
    start = parent("stylegan2")
    said = r"faces/3: its data has no classes.* model.conditional \(False there, True here\)"
    with pytest.raises(SettingsError, match=said):
        build("child", "stylegan2", classes=("a", "b"), model={"conditional": True}, start=start)


def test_classes_that_are_channels_of_the_picture_cannot_be_adapted(build: Build, parent) -> None:
    start = parent("cgan", classes=("a", "b"), model={"condition": "concatenation"})
    with pytest.raises(
        SettingsError, match=r"1 channel\(s\) become pictures of 3, and cgan cannot adapt .*layers.0.weight"
    ):
        build("child", "cgan", classes=("a", "b"), channels=3, model={"condition": "concatenation"}, start=start)


def test_optimisers_that_were_not_kept_or_do_not_fit_are_refused(build: Build, parent) -> None:
    start = parent()
    with pytest.raises(CheckpointError, match="faces/3 does not have its optimisers: .*save_start: weights"):
        build("child", start=start, start_optimisers=True)
    full = parent(save_start="full")
    with pytest.raises(SettingsError, match="start_optimisers: the networks of faces/3 had to be adapted"):
        build("child", channels=3, start=full, start_optimisers=True)


@pytest.mark.parametrize("file", [WEIGHTS, OPTIMISERS])
def test_a_damaged_or_missing_file_is_named(file: str, build: Build, parent) -> None:
    start = parent(save_start="full")
    with (start / file).open("r+b") as damaged:
        damaged.seek(-1, os.SEEK_END)
        damaged.write(b"\x7f")
    with pytest.raises(CheckpointError, match=rf"faces/3 is damaged: .*{file} does not match its SHA-256"):
        build("child", start=start)
    (start / file).unlink()
    with pytest.raises(CheckpointError, match=rf"faces/3 is incomplete: .*{file} is missing"):
        build("child", start=start)


def test_a_folder_without_a_discriminator_is_refused_and_checkpoints_are_taken(build: Build, tmp_path: Path) -> None:
    trainer = build("parent")
    trainer.run()
    trainer.export(tmp_path / "only" / "generator")
    with pytest.raises(CheckpointError, match="it has a generator, but not the discriminator"):
        open_start(tmp_path / "only")
    with pytest.raises(CheckpointError, match="nothing to start from in"):
        open_start(tmp_path / "nowhere")
    child = build("child", start=tmp_path / "parent")
    earlier = tensors(build("parent"))
    assert all(torch.equal(tensor, earlier[name]) for name, tensor in tensors(child).items())
