"""The shapes that families accept, and the capabilities of each family."""

import re
import subprocess
import sys
import textwrap

import pytest

from gan_core.errors import SettingsError
from gan_core.families import (
    FAMILIES,
    ImageShape,
    check_family,
    families_that_can,
    family_config,
    require,
    sketch_family,
)
from gan_core.families.dcgan import DcganConfig
from gan_core.families.noise import NoiseFamily, StyleBasedFamily
from gan_core.families.translation import ReferenceGuidedFamily, TranslationFamily


def halvings(channels: int, height: int, width: int) -> int:
    return ImageShape(channels=channels, height=height, width=width).downsamplings("dcgan", 128)


@pytest.mark.parametrize(
    ("height", "width", "count"), [(16, 16, 2), (28, 28, 2), (32, 32, 3), (48, 40, 3), (64, 96, 4), (128, 128, 5)]
)
def test_a_picture_is_halved_until_its_shorter_side_is_4_to_7(height: int, width: int, count: int) -> None:
    assert halvings(1, height, width) == count
    assert 4 <= min(height, width) >> count <= 7


def test_every_shape_that_an_error_suggests_is_possible() -> None:
    suggested = []
    for height in range(16, 129):
        for width in (16, 50, 64, 99, 128):
            try:
                halvings(1, height, width)
            except SettingsError as error:
                found = re.findall(r"to \[(\d+), (\d+)\]", str(error))
                suggested.append((height, width, *map(int, found[0])))
    assert len(suggested) > 100
    for height, width, near_height, near_width in suggested:
        halvings(1, near_height, near_width)
        assert abs(near_height - height) <= 8
        assert abs(near_width - width) <= 8


def test_checking_a_family_imports_no_code_for_meta_tensors() -> None:
    code = (
        "import sys; from gan_core.families import ImageShape, check_family, family_config\n"
        "check_family('dcgan', family_config('dcgan', {}), ImageShape(channels=1, height=32, width=32))\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(SettingsError, match=r"not 65x64. Change ingest.size"):
        check_family("dcgan", family_config("dcgan", {}), ImageShape(channels=1, height=65, width=64))


def test_every_family_either_generates_from_noise_or_translates() -> None:
    noise, translation = families_that_can(NoiseFamily), families_that_can(TranslationFamily)
    assert sorted([*noise, *translation]) == sorted(FAMILIES)
    assert families_that_can(StyleBasedFamily) == ["stylegan2"]
    assert families_that_can(ReferenceGuidedFamily) == ["stargan2"]


def test_a_family_without_a_method_of_its_capability_cannot_be_built() -> None:
    class Styleless(StyleBasedFamily):
        name = "styleless"
        Config = DcganConfig

    with pytest.raises(
        TypeError, match="abstract methods '?from_styles'?, '?latent_weights'?, '?mean_styles'?, '?style"
    ):
        Styleless(DcganConfig(), ImageShape(channels=1, height=16, width=16))


def test_a_missing_capability_is_an_error_that_names_the_families_with_it() -> None:
    dcgan = sketch_family("dcgan", family_config("dcgan", {}), ImageShape(channels=1, height=16, width=16))
    assert require(dcgan, NoiseFamily) is dcgan
    with pytest.raises(SettingsError, match=r"dcgan cannot mix styles or project pictures; it can .*: stylegan2\.$"):
        require(dcgan, StyleBasedFamily)


@pytest.mark.parametrize(
    ("family", "settings", "conditional"),
    [("dcgan", {}, False), ("cgan", {}, True), ("r3gan", {}, False), ("r3gan", {"conditional": True}, True)],
)
def test_settings_tell_whether_a_generator_is_class_conditional(
    family: str, settings: dict[str, bool], conditional: bool
) -> None:
    config = family_config(family, settings)
    assert FAMILIES[family].is_conditional(config) == conditional
    if conditional:
        with pytest.raises(SettingsError, match=f"{family} needs labels, but this dataset has none"):
            check_family(family, config, ImageShape(channels=1, height=16, width=16))


def test_sketching_a_family_does_not_import_torchs_compiler() -> None:
    """Loading a generator and checking settings sketch a family first; that import takes seconds."""
    script = """
        import sys
        from gan_core.families import FAMILIES, ImageShape, family_config, sketch_family
        for name, kind in FAMILIES.items():
            some = {"condition_channels": 3} if kind.kinds == {"paired"} else {"classes": 2}
            shape = ImageShape(channels=3, height=32, width=32, **some)
            sketch_family(name, family_config(name, {}), shape)
            assert "torch._dynamo" not in sys.modules, name
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
