"""Help is quick: no command's --help imports torch, Ray, MLflow, Prefect, DVC or another package that takes long."""

import subprocess
import sys

import pytest

from pipelines.cli import COMMANDS
from tests.pipelines.toy import CHECKOUT, environment

PROGRAM = """
import sys
import click
from pipelines.cli import gantry

def ask(*words):
    try:
        gantry.main([*words, "--help"], prog_name="gantry")
    except SystemExit as ended:
        assert not ended.code, words

verb = sys.argv[1]
ask(verb)
for name in getattr(gantry.get_command(click.Context(gantry), verb), "commands", ()):
    ask(verb, name)
slow = {"torch", "ray", "mlflow", "prefect", "dvc", "pandas", "scipy", "sklearn", "pyarrow", "matplotlib"}
print(*sorted(slow & {*sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_command_imports_no_slow_package(verb: str) -> None:
    program = [sys.executable, "-c", PROGRAM, verb]
    done = subprocess.run(program, cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: gantry" in done.stdout
    assert done.stderr.strip() == ""
