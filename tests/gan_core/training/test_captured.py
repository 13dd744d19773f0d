"""Captured steps train what other steps train, to the byte, tested without a GPU by a stand-in for CUDA graphs.

The stand-in (tests/recorded.py) repeats the operations of a step on the same memory, with the same numbers. So equal weights
mean that no step reads memory that has been replaced, or repeats a number that should have changed.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_core.config import build
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, Batch, Losses, family_config
from gan_core.families.dcgan import Dcgan
from gan_core.families.stylegan2 import StyleGan2
from gan_core.training import feed as feeds
from gan_core.training.adam import Adam
from gan_core.training.captured import CudaGraphs, refusal
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from gan_core.training.world import World
from tests.datasets import blobs, write_prepared
from tests.gan_core.families import conftest, translations
from tests.gan_core.training.runs import Make, Notes, final
from tests.recorded import Recording, recorded_graphs

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dcgan": ("dcgan", {}, {"augment": {"kind": "diffaugment"}, "decay_from": 0.0, "warm_up_kimg": 0.05}),
    "dcgan in micro-batches": ("dcgan", {}, {"accumulate": 2, "discriminator_steps": 2, "mirror": True, "jitter": 0.2}),
    "cgan with adapted ada": ("cgan", {}, {"augment": {"kind": "ada"}, "steps": 14}),
    "biggan with all penalties": (
        "biggan",
        {
            "consistency": 10.0,
            "consistency_every": 2,
            "orthogonal": 0.1,
            "orthogonal_every": 2,
            "gradient_penalty": 1.0,
        },
        {"discriminator_steps": 2, "steps": 8},
    ),
    "stylegan2": ("stylegan2", {"path_every": 2}, {"steps": 8}),
    "stylegan2 in bf16 in a burn-in": (
        "stylegan2",
        {"path_length": 0.0, "r1_every": 1},
        {"precision": "bf16", "augment": {"kind": "ada", "strength": 0.5}, "burn_in_kimg": 0.1},
    ),
    "r3gan in a burn-in": ("r3gan", {}, {"burn_in_kimg": 0.1, "final_lr_share": 0.5}),
    "r3gan with a changing beta2": (
        "r3gan",
        {"penalty_every": 2},
        {"burn_in_kimg": 0.015, "final_beta2": 0.9, "steps": 8},
    ),
    "pix2pix": ("pix2pix", {}, {}),
    "contrastive": ("cyclegan", translations.SETTINGS["contrastive"], {}),
    "stargan": ("stargan", {}, {}),
    "stargan2": ("stargan2", {"diversity_steps": 10}, {}),
}
"""Family, its settings and those of the run."""

Build = Callable[..., Trainer]


@pytest.fixture
def recordings() -> Iterator[list[Recording]]:
    with recorded_graphs() as made:
        yield made


@pytest.fixture
def build_case(tmp_path: Path) -> Build:
    """A function that builds the trainer of a case in the folder ``place``."""

    def build_trainer(case: str, place: str, **settings: Any) -> Trainer:
        name, model, run = CASES[case]
        data = tmp_path / "data"
        if case in translations.VARIANTS:
            small = translations.SMALL[name]
            if not data.exists():
                translations.write_data(case, data)
        else:
            small = conftest.SMALL[name]
            if not data.exists():
                write_prepared(data, blobs(32, 16), np.arange(32) % 2)
        seldom = {"steps": 6, "batch": 8, "precision": "fp32", "log_every": 4, "sample_every": 5, "checkpoint_every": 3}
        config = build(TrainConfig, {**seldom, **run, **settings})
        dataset = PreparedDataset(data, tmp_path / "decoded")
        return Trainer(
            name,
            family_config(name, {**small, **model}),
            dataset,
            config,
            tmp_path / place,
            device="cpu",
            observer=Notes(),
        )

    return build_trainer


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer._state.tensors().items()}


def logged(trainer: Trainer) -> dict[int, dict[str, float]]:
    notes = trainer.observer
    assert isinstance(notes, Notes)
    return {
        step: {name: value for name, value in row.items() if name != "rate/images_per_second"}
        for step, row in notes.rows.items()
    }


def different(one: Trainer, other: Trainer) -> list[str]:
    """What differs between two runs: tensors of their states, and rows of metrics."""
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    names = [name for name in first if not torch.equal(first[name], second[name])]
    return names + (["metrics"] if logged(one) != logged(other) else [])


@pytest.mark.parametrize("case", CASES)
def test_captured_steps_train_the_same_bytes(case: str, build_case: Build, recordings: list[Recording]) -> None:
    """Over steps of all kinds, reports, grids and checkpoints."""
    plain, captured = build_case(case, "plain"), build_case(case, "captured", compile="step")
    plain.run()
    captured.run()
    assert recordings
    assert all(recording.replays for recording in recordings)
    assert different(plain, captured) == []


def test_every_family_has_a_case() -> None:
    assert {family for family, *_ in CASES.values()} == set(FAMILIES) - {"toy"}


def test_steps_with_other_phases_have_graphs_of_their_own(build_case: Build, recordings: list[Recording]) -> None:
    trainer = build_case("stylegan2", "run", compile="step")
    trainer.run()
    # With and without penalties; two steps of each kind run before it is recorded.
    assert [recording.replays for recording in recordings] == [2, 2]


def test_a_resumed_run_ends_with_the_same_bytes(build_case: Build, recordings: list[Recording]) -> None:
    whole = build_case("stylegan2", "whole", compile="step", steps=12)
    whole.run()
    build_case("stylegan2", "parts", compile="step", steps=12).run(6)
    resumed = build_case("stylegan2", "parts", compile="step", steps=12)
    assert resumed.step == 6
    resumed.run()
    assert final(whole.directory) == final(resumed.directory)


def test_after_a_rollback_steps_are_captured_again(build_case: Build, recordings: list[Recording]) -> None:
    """It loads other tensors, halves the learning rates and changes the names of the random numbers."""
    trainers = [build_case("dcgan", name, compile=how, steps=15) for name, how in (("a", False), ("b", "step"))]
    for trainer in trainers:
        trainer.run(7)
        next(iter(trainer.family.networks["generator"].parameters())).data.fill_(torch.nan)
        trainer.run()
        assert trainer.rollbacks == 1
    assert len(recordings) == 2
    assert different(*trainers) == []


@pytest.mark.parametrize("how", ["mapped", "streamed"])
def test_pictures_that_the_host_reads_are_copied_to_where_the_graph_reads_them(
    how: str, build_case: Build, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "available_memory", lambda: 0)
    feed = "stream" if how == "streamed" else "decoded"
    plain, captured = (
        build_case("cgan with adapted ada", name, compile=how, feed=feed) for name, how in (("a", False), ("b", "step"))
    )
    plain.run()
    captured.run()
    assert recordings
    assert different(plain, captured) == []


# -- what the stand-in detects -----------------------------------------------------------------------------------------


def test_a_number_that_is_repeated_is_detected(
    build_case: Build, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates that the kernel does not read from memory stay those of the recorded step."""
    monkeypatch.setattr(Adam, "keep_rate_on_device", lambda self: None)
    plain, captured = build_case("dcgan", "plain"), build_case("dcgan", "captured", compile="step")
    plain.run()
    captured.run()
    assert "network.generator.project.weight" in different(plain, captured)


def test_memory_that_is_replaced_is_detected(
    build_case: Build, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    path_loss = StyleGan2.path_loss

    def replacing(self: StyleGan2, batch: Batch, step: int) -> Losses:
        self.buffers["path_length_mean"] = self.buffers["path_length_mean"].clone()
        return path_loss(self, batch, step)

    monkeypatch.setattr(StyleGan2, "path_loss", replacing)
    plain, captured = build_case("stylegan2", "plain"), build_case("stylegan2", "captured", compile="step")
    plain.run()
    captured.run()
    assert "memory.path_length_mean" in different(plain, captured)


# -- what is not captured ----------------------------------------------------------------------------------------------


def waits(self: Dcgan, batch: Batch, draw: str = "latents") -> Tensor:
    """Latents that the processor has to know."""
    latents = LATENTS(self, batch, draw)
    return latents if latents.sum().item() else -latents


def unnamed(self: Dcgan, batch: Batch, draw: str = "latents") -> Tensor:
    """Latents whose name has more than the step's number in it."""
    return LATENTS(self, batch, f"{draw} {batch.key[2]}")


LATENTS = Dcgan.latents


@pytest.mark.parametrize(
    ("latents", "reason"),
    [(waits, "reads a number"), (unnamed, "are not named by the step alone")],
    ids=["waits", "unnamed"],
)
def test_a_step_that_cannot_be_captured_runs_as_it_is_and_says_why(
    latents: Any,
    reason: str,
    build_case: Build,
    recordings: list[Recording],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Dcgan, "latents", latents)
    plain, captured = build_case("dcgan", "plain"), build_case("dcgan", "captured", compile="step")
    plain.run()
    captured.run()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("train.compile: step: steps are compiled, but not captured: ")
    assert reason in warning
    assert not recordings
    assert different(plain, captured) == []


def test_memory_that_runs_out_while_a_step_is_captured_ends_the_run(
    build_case: Build, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Recording, *arguments: Any) -> Any:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23 GiB"
        )

    monkeypatch.setattr(Recording, "__torch_dispatch__", full)
    with pytest.raises(SettingsError, match=r"train\.batch: step 3 of dcgan needs more memory"):
        build_case("dcgan", "run", compile="step").run()


def test_other_devices_and_several_workers_are_refused_by_name(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert refusal(torch.device("cuda"), World()) is None
    assert "several workers" in str(refusal(torch.device("cuda"), World(0, 2)))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with caplog.at_level(logging.INFO):
        make(compile="step", steps=2).run()
    assert "steps are compiled, but not captured: a cpu device has no CUDA graphs" in caplog.text


def test_the_setting_is_checked() -> None:
    assert build(TrainConfig, {"compile": "step"}).compile == "step"
    with pytest.raises(SettingsError, match=r"compile: 'steps' is not true or false or 'step'"):
        build(TrainConfig, {"compile": "steps"})


def test_steps_on_another_gpu_than_the_first_wait_for_the_stream_of_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            done.append(f"{self.name} waits for {other.name}")

    second = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"own of {device}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream(f"current of {device or 'cuda:0'}"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    CudaGraphs(second).warm_up(lambda: done.append("work"))
    assert done == ["own of cuda:1 waits for current of cuda:1", "work", "current of cuda:1 waits for own of cuda:1"]
