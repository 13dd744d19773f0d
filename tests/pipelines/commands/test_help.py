"""No --help of gantry or its commands imports torch, Ray, MLflow, Prefect, DVC or another slow package."""

import json
import subprocess
import sys

from pipelines.cli import COMMANDS
from tests.pipelines.toy import CHECKOUT, environment

PROGRAM = """
import contextlib, io, json, sys
import click
from pipelines.cli import gantry

SLOW = {"torch", "ray", "mlflow", "prefect", "dvc", "pandas", "scipy", "sklearn", "pyarrow", "matplotlib"}
first_seen, help_of, seen = {}, {}, set()

def ask(command, words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            gantry.main([*words, "--help"], prog_name="gantry")
        except SystemExit as ended:
            assert not ended.code, words
    name = " ".join(["gantry", *words])
    help_of[name] = said.getvalue()
    if new := sorted((SLOW & {*sys.modules}) - seen):
        first_seen[name] = new
        seen.update(new)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for verb in command.list_commands(context):
            ask(command.get_command(context, verb), [*words, verb])

ask(gantry, [])
print(json.dumps({"slow": first_seen, "help": help_of}))
"""
"""Prints the help of gantry and of every command, in one process: an imported package stays imported."""


def test_no_help_imports_a_slow_package() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["slow"] == {}
    assert {*answer["help"]} >= {"gantry", *(f"gantry {verb}" for verb in COMMANDS), "gantry data add"}
    assert all(text.startswith(f"Usage: {name} ") for name, text in answer["help"].items())
