"""The command: what every process that Gantry starts inherits from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from tests.pipelines.toy import CHECKOUT, environment


def test_what_the_system_refuses_is_one_line_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def command(**_: object) -> None:
        (tmp_path / "file" / "inside").read_text()

    monkeypatch.setattr(cli, "gantry", command)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert f"error: {tmp_path}/file/inside: not a directory." in capsys.readouterr().err


def test_a_stage_that_is_ended_prints_no_native_stack():
    """Ray's own switch, read when it is imported; a person's wish for the stack wins."""
    code = "import pipelines.cli, ray._private.ray_constants as c; print(c.RAY_DISABLE_FAILURE_SIGNAL_HANDLER)"
    for wish, expected in ((None, "True"), ("0", "False")):
        variables = environment(**({"RAY_DISABLE_FAILURE_SIGNAL_HANDLER": wish} if wish else {}))
        if wish is None:
            variables.pop("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", None)
        done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=variables, capture_output=True, text=True)
        assert done.stdout.split() == [expected], done.stderr


def test_the_list_of_verbs_loads_none_of_them():
    code = """
import sys
from pipelines.cli import gantry
try:
    gantry(["--help"])
finally:
    print(sorted({"torch", "prefect", "mlflow"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_verb_of_the_list_is_there(name: str) -> None:
    command = cli.gantry.get_command(None, name)
    assert command is not None
    assert command.name == name
