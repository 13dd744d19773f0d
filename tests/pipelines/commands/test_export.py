"""``gantry export`` writes one file and says what it takes."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import gan_core
from gan_core.errors import SettingsError
from gan_core.inference.description import generator_digest
from gan_core.inference.export import read_metadata
from gan_core.inference.generator import save_generator
from pipelines.commands.export import export
from tests.gan_core.families.conftest import small


def run(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "generator"
    save_generator(place, family=small("r3gan"))
    return place


def test_the_file_names_the_generator_and_the_output_its_inputs(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "--format", "torch", "--out", tmp_path / "digits.pt2")
    assert result.exit_code == 0, result.output
    assert "as torch (latent -> image)" in result.output
    assert f"differ from those of generator {generator_digest(folder)[:12]} by at most" in result.output
    found = read_metadata(tmp_path / "digits.pt2")
    assert (found["gantry"], found["generator"]) == (gan_core.__version__, generator_digest(folder))


def test_an_existing_file_and_a_wrong_suffix_are_refused(folder: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    refused = run(folder, "--out", taken).exception
    assert isinstance(refused, SettingsError)
    assert "taken.onnx exists. Choose another name, or add --replace" in str(refused)
    assert taken.read_text() == "mine"
    wrong = run(folder, "--out", tmp_path / "x.pt").exception
    assert isinstance(wrong, SettingsError)
    assert "the name must end in .onnx" in str(wrong)
