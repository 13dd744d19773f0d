"""Large pictures are generated few at a time, so that they fit into memory, and come out as they would together."""

import dataclasses

import pytest
import torch

from gan_core.families import family_config, sketch_family
from gan_core.families.base import ImageShape
from gan_core.families.noise import NoiseFamily
from gan_core.inference.generator import Generator
from gan_core.inference.together import draw, sample_together
from tests.gan_core.families.conftest import small


@pytest.mark.parametrize(
    ("side", "on_a_processor", "on_a_gpu"), [(32, 64, 64), (128, 64, 64), (256, 16, 64), (512, 4, 16), (1024, 1, 4)]
)
def test_the_larger_the_pictures_the_fewer_at_once(side: int, on_a_processor: int, on_a_gpu: int) -> None:
    family = sketch_family("stylegan2", family_config("stylegan2", {}), ImageShape(channels=3, height=side, width=side))
    assert isinstance(family, NoiseFamily)
    assert family.pictures_at_once(torch.device("cpu")) == on_a_processor
    assert family.pictures_at_once(torch.device("cuda")) == on_a_gpu


@pytest.mark.parametrize("name", ["cgan", "stylegan2"])
def test_every_way_to_generate_splits_large_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = small(name)
    family.networks["generator"].eval()
    family.update_statistics(family.networks)
    generator = Generator(family, {"shape": dataclasses.asdict(family.shape)}, "digest")

    def everything() -> list[torch.Tensor]:
        together = sample_together(generator, [draw(generator, 3, 0), draw(generator, 2, 1)])
        return [
            generator.sample(5, 0),
            generator.walk(2, 0, frames=3),
            127.5 * family.preview(None, family.networks)[0],
            *(127.5 * images for images in generator.path_step(5, 0, space="z", epsilon=1e-4)),
            *([generator.mix(3, 0)] if name == "stylegan2" else []),
            *together,
        ]

    whole = everything()
    sizes = set()
    network = family.networks["generator"]
    layer = network.synthesis if name == "stylegan2" else network
    layer.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))
    monkeypatch.setattr("gan_core.families.noise._PIXELS_AT_ONCE_ON_CPU", 2 * family.shape.height * family.shape.width)
    for one, other in zip(whole, everything(), strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=1, rtol=1e-4)
    assert sizes == {1, 2}
