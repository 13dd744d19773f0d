"""Shell completion of commands and options. Completing a command imports none of them."""

import os
import subprocess
import sys

import pytest

from tests.pipelines.toy import CHECKOUT, environment

PROGRAM = """
import sys
from pipelines.cli import main
try:
    main()
finally:
    print(*sorted({"torch", "prefect", "mlflow", "ray"} & {*sys.modules}), file=sys.stderr)
"""


def complete(words: str) -> tuple[list[str], str]:
    """The completions that bash gets after ``words``, and the slow packages that were imported for them."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), "_GANTRY_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=CHECKOUT, env=environment(**asked), capture_output=True, text=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()], done.stderr.strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_gantry(shell: str) -> None:
    program = [sys.executable, "-c", "from pipelines.cli import main; main()", "completion", shell]
    done = subprocess.run(program, cwd=CHECKOUT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"_GANTRY_COMPLETE={shell}_complete" in done.stdout


def test_completing_a_command_imports_none() -> None:
    offered, imported = complete("gantry pro")
    assert offered == ["project", "promote"]
    assert imported == ""


def test_the_options_of_a_command_are_completed() -> None:
    offered, _ = complete("gantry ledger --")
    assert "--verify" in offered


def test_bash_accepts_the_script() -> None:
    program = [sys.executable, "-c", "from pipelines.cli import main; main()", "completion", "bash"]
    script = subprocess.run(program, cwd=CHECKOUT, env=environment(), capture_output=True, text=True).stdout
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
