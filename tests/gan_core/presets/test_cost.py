"""Estimates of the operations and the memory of training."""

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from gan_core import randomness
from gan_core.families import FAMILIES, Batch, ImageShape, build_family, family_config
from gan_core.presets.cost import peak_memory, training_flops
from gan_core.presets.recipes import RECIPES


def test_the_operations_of_the_papers_dcgan_counted_by_hand() -> None:
    """At 32 pixels and width 128, by hand: 2 operations a product; three passes of G, eight of D.

    With several updates of the discriminator, each has images of its own: a pass of G and six of D.
    """
    shape = ImageShape(channels=3, height=32, width=32)
    up = 2 * 16 * (512 * 256 * 4 * 4 + 256 * 128 * 8 * 8 + 128 * 3 * 16 * 16) + 2 * 100 * 512 * 16
    down = 2 * 16 * (3 * 128 * 16 * 16 + 128 * 256 * 8 * 8 + 256 * 512 * 4 * 4) + 2 * 512 * 16
    assert training_flops("dcgan", shape, {}) == pytest.approx(3 * up + 8 * down, rel=0.01)
    several = up + 6 * down + (2 * up + 2 * down) / 4
    assert training_flops("dcgan", shape, {}, discriminator_steps=4) == pytest.approx(several, rel=0.01)


def test_the_operations_of_r3gan_with_its_penalties() -> None:
    """Of G three passes, of D nine, one of them for the real image of each pair; R1 and R2 take four more each.

    A penalty takes a pass forwards, one back to the image, and twice as many to differentiate that by the weights, whether
    they are in groups or not.
    """
    shape, model = ImageShape(channels=3, height=32, width=32), {"width": 32, "width_max": 64, "blocks": 1}
    with torch.device("meta"):
        family = build_family("r3gan", family_config("r3gan", model), shape)
        inputs = {"generator": torch.zeros(1, 64), "discriminator": torch.zeros(1, 3, 32, 32)}
    forward = {}
    for name, network in family.networks.items():
        with FlopCounterMode(display=False) as counter:
            network(inputs[name])
        forward[name] = counter.get_total_flops()
    without = 3 * forward["generator"] + 9 * forward["discriminator"]
    penalties = 8 * forward["discriminator"]
    plain = {**model, "gamma": 0.0, "final_gamma": 0.0}
    assert training_flops("r3gan", shape, plain) == pytest.approx(without, rel=0.02)
    assert training_flops("r3gan", shape, model) == pytest.approx(without + penalties, rel=0.02)
    lazy = training_flops("r3gan", shape, {**model, "penalty_every": 8})
    assert lazy == pytest.approx(without + penalties / 8, rel=0.02)


def test_regularisation_of_the_weights_is_shared_by_a_batch() -> None:
    shape = ImageShape(channels=3, height=32, width=32, classes=4)
    plain, regular = (training_flops("biggan", shape, {"width": 24, "orthogonal": weight}) for weight in (0.0, 1e-4))
    assert plain < regular < 1.1 * plain


def test_the_estimate_is_for_the_networks_that_auto_chooses_for_the_device() -> None:
    """Without a GPU, of the narrower networks."""
    shape = ImageShape(channels=3, height=32, width=32)
    assert training_flops("dcgan", shape, {"width": 48}) < 0.25 * training_flops("dcgan", shape, {})


def test_the_operations_of_a_translation_family_are_those_of_its_passes() -> None:
    """Of Pix2Pix: the generator forwards and back, the discriminator so of real and of fake, and through it once more."""
    shape = ImageShape(channels=3, height=64, width=64, condition_channels=3)
    with torch.device("meta"):
        family = build_family("pix2pix", family_config("pix2pix", {"dropout": 0.0}), shape)
        conditions, pairs = torch.zeros(1, 3, 64, 64), torch.zeros(1, 6, 64, 64)
    forward = {}
    for name, inputs in (("generator", (conditions, ())), ("discriminator", (pairs,))):
        with FlopCounterMode(display=False) as counter:
            family.networks[name](*inputs)
        forward[name] = counter.get_total_flops()
    expected = 3 * forward["generator"] + 8 * forward["discriminator"]
    # A little less: nothing is differentiated by the pictures themselves.
    assert 0.9 * expected < training_flops("pix2pix", shape, {}) <= expected


def shape_for(family: str, size: int = 32) -> ImageShape:
    classes = 2 if family == "cyclegan" else 0 if family == "pix2pix" else 4
    return ImageShape(
        channels=3, height=size, width=size, classes=classes, condition_channels=3 if family == "pix2pix" else 0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_memory_of_a_step_grows_with_its_images_and_shrinks_with_bf16(family: str) -> None:
    shape, model = shape_for(family), RECIPES[family].model_on_cpu
    needs = peak_memory(family, shape, model, 32, keep=True, bf16=False)
    assert peak_memory(family, shape, model, 64, keep=True, bf16=False) > needs
    assert peak_memory(family, shape, model, 32, keep=True, bf16=True) < needs


def test_penalties_add_their_memory_to_that_of_cuda_graphs() -> None:
    """CUDA graphs keep the game's for themselves; a family without penalties takes no more than before."""
    shape, images = ImageShape(channels=3, height=32, width=32), 64
    needs = {
        (family, compiled): peak_memory(family, shape, model, images, keep=True, bf16=True, compiled=compiled)
        for family, model in (("r3gan", {"width": 32, "width_max": 64}), ("dcgan", {"width": 48}))
        for compiled in (False, True)
    }
    assert needs["dcgan", True] == needs["dcgan", False]
    assert 1.3 * needs["r3gan", False] < needs["r3gan", True] < 2 * needs["r3gan", False]


def test_networks_and_optimisers_are_counted() -> None:
    """Weights, gradients, two moments; of the generator also the average."""
    shape = ImageShape(channels=1, height=16, width=16)
    family = build_family("dcgan", family_config("dcgan", {}), shape)
    of = {side: sum(p.numel() for p in network.parameters()) for side, network in family.networks.items()}
    weights = 4 * (5 * of["generator"] + 4 * of["discriminator"])
    assert weights < peak_memory("dcgan", shape, {}, 2, keep=True, bf16=False) < 1.1 * weights


@pytest.mark.parametrize("name", ["dcgan", "r3gan"])
def test_the_estimate_is_close_to_what_torch_allocates(name: str) -> None:
    """Beside torch's own count of a step that is computed, on this processor."""
    shape, images, model = ImageShape(channels=3, height=32, width=32), 32, RECIPES[name].model_on_cpu
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        family = build_family(name, family_config(name, model), shape)
        batch = Batch(real=torch.rand(images, 3, 32, 32), labels=None, key=(0, 0, 0), part=randomness.WorkerSlice())
        for phase in family.phases():
            family.networks["discriminator"].requires_grad_(phase.side == "discriminator")
            phase.loss(batch, 0).total.backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    of = {side: sum(p.numel() for p in network.parameters()) for side, network in family.networks.items()}
    moments = 4 * (3 * of["generator"] + 2 * of["discriminator"])
    counted = peak_memory(name, shape, model, images, keep=True, bf16=False) - moments
    assert counted == pytest.approx(max(itertools.accumulate(changes)), rel=0.15)
