"""The targets of the Makefile work in folders of any name."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT

_TOOL = '#!/bin/sh\nprintf "%s|%s|%s\\n" "$(basename "$0")" "$VIRTUAL_ENV" "$*" >> called\n'


@pytest.mark.parametrize("name", ["plain", "with space", "it's #1", 'quote"$HOME`x`', "ü%41", "x" * 200])
@pytest.mark.parametrize("verb", ["test", "demo", "lint"])
def test_a_target_works_in_a_folder_of_any_name(tmp_path: Path, name: str, verb: str) -> None:
    place = tmp_path / name
    tools = place / ".venv" / "bin"
    tools.mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, place)
    for tool in ("python", "uv", "gantry", "ruff"):
        (tools / tool).write_text(_TOOL)
        (tools / tool).chmod(0o755)
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PIP_", "VIRTUAL_ENV"))}
    done = subprocess.run(["make", "-s", verb], cwd=place, env=unset, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    called = (place / "called").read_text().splitlines()
    assert called[0] == f"uv|{place}/.venv|pip install --quiet -r requirements.lock"
    assert called[1] == f"uv|{place}/.venv|pip install --quiet --no-deps -e ."
    assert called[2].split("|")[0] == {"test": "python", "demo": "gantry", "lint": "ruff"}[verb]


@pytest.mark.parametrize(
    ("page", "passes"), [("[a](other.md)", True), ("[a](none.md)", False), ("[a](other.md#no-such-heading)", False)]
)
def test_the_documentation_build_fails_on_a_broken_link(tmp_path: Path, page: str, passes: bool) -> None:
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for file in (
        "requirements.lock",
        "pyproject.toml",
        ".venv/.ready",
    ):  # the last one is the newest, so nothing is installed
        (tmp_path / file).touch()
    (tools / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (tools / "python").chmod(0o755)
    validation = (ROOT / "mkdocs.yml").read_text().split("\nvalidation:\n")[1].split("\n\n")[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: a\nvalidation:\n{validation}\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# A\n\n{page}\n")
    (tmp_path / "docs" / "other.md").write_text("# B\n")
    done = subprocess.run(["make", "docs-build"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is passes, done.stdout + done.stderr
