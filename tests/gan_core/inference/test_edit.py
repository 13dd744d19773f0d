"""Edits start from the picture of a seed, and change it as they say."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gan_core.errors import SettingsError
from gan_core.families import require
from gan_core.families.noise import StyleBasedFamily
from gan_core.inference.edit import Edit, Editor
from gan_core.inference.generator import Generator, load_generator, save_generator
from tests.gan_core.families.conftest import SMALL, small


def editor(name: str, folder: Path) -> Editor:
    family = small(name)
    save_generator(folder, family=family, extra={"classes": ["a", "b"]} if family.conditional else {})
    return Editor(load_generator(folder), count=6)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_without_edits_it_is_the_picture_that_gantry_sample_makes(name: str, tmp_path: Path) -> None:
    made = editor(name, tmp_path / "g")
    generator: Generator = made.generator
    label = 1 if generator.conditional else None
    for truncation in (None, 0.5):
        expected = generator.sample(1, 7, label, truncation)[0]
        assert torch.equal(made.render(Edit(seed=7, label=label, truncation=truncation)), expected)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_move_changes_the_picture_and_a_move_of_zero_does_not(name: str, tmp_path: Path) -> None:
    made = editor(name, tmp_path / "g")
    edit = Edit(seed=3)
    plain = made.render(edit)
    assert torch.equal(made.render(replace(edit, moves={"all": [0.0] * 6})), plain)
    assert not torch.equal(made.render(replace(edit, moves={"all": [0.0, 5.0]})), plain)


def test_styles_are_mixed_from_the_crossover_on_and_parts_are_moved_alone(tmp_path: Path) -> None:
    made = editor("stylegan2", tmp_path / "g")
    family = require(made.family, StyleBasedFamily)
    styles = [family.to_styles(*family.draw(1, seed, 0)) for seed in (1, 2)]
    expected = family.from_styles(torch.cat([styles[0][:, :4], styles[1][:, 4:]], dim=1))
    mixed = made.render(Edit(seed=1, label=0, mix_seed=2, crossover=4))
    assert torch.allclose(mixed.float(), ((expected[0] + 1) * 127.5).clamp(0, 255), atol=0.51)
    moved = [made.render(Edit(seed=1, moves={part: [4.0]})) for part in ("coarse", "middle", "fine")]
    assert len({tuple(picture.flatten().tolist()) for picture in moved}) == 3


def test_a_projection_takes_the_place_of_the_seed(tmp_path: Path) -> None:
    made = editor("r3gan", tmp_path / "g")
    latents, _ = made.family.draw(1, 5)
    assert torch.equal(made.render(Edit(seed=9, start=latents[0])), made.render(Edit(seed=5)))


def test_impossible_edits_are_refused(tmp_path: Path) -> None:
    styled, plain = editor("stylegan2", tmp_path / "s"), editor("dcgan", tmp_path / "d")
    for made, edit, told in (
        (styled, Edit(mix_seed=1, crossover=99), "crossover: must be 1 to 5 for 6 layers, got 99"),
        (styled, Edit(mix_seed=-1), "seed: must be 0 or more"),
        (plain, Edit(mix_seed=1), "dcgan cannot mix styles"),
        (plain, Edit(label=1), "dcgan is unconditional"),
        (plain, Edit(moves={"coarse": [1.0]}), "dcgan has no styles"),
        (plain, Edit(moves={"all": [1.0] * 7}), "7 values, but there are 6 directions"),
        (plain, Edit(truncation=float("nan")), "truncation: must be a finite number"),
    ):
        with pytest.raises(SettingsError, match=told):
            made.render(edit)
