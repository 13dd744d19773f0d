"""Every command and option of ``gantry`` that a page, an example or a comment shows exists."""

import re
from pathlib import Path

import click
import pytest

from pipelines.cli import COMMANDS, gantry
from tests.checkout import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "params.yaml")),
    *(ROOT / "pipelines" / "template" / name for name in ("README.md", "params.yaml")),
    ROOT / "infra" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_CODE = re.compile(r"```\w*\n(.*?)```|`([^`]+)`|^    (.+)$", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"(?<!--namespace )\bgantry ((?:(?!\bgantry\b|[`#;|\n]| && ).)+)")


def calls(text: str) -> list[str]:
    """What follows ``gantry`` in the code of a page, one call each; a line that ends with a backslash goes on."""
    code = "\n".join(part for parts in _CODE.findall(text) for part in parts if part)
    return [call.strip() for call in _CALL.findall(re.sub(r"\\\n\s*", " ", code))]


def unknown(call: str) -> str:
    """The command or the first option of ``call`` that does not exist; empty if all do."""
    words = call.replace("'", " ").replace('"', " ").split()
    command: click.Command | None = gantry
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
        name = words.pop(0)
        command = command.get_command(click.Context(command), name)
        if command is None:
            return name
    assert command is not None
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    return next((word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word) and word not in known), "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    shown = calls(page.read_text(encoding="utf-8"))
    assert [(call, wrong) for call in shown if (wrong := unknown(call))] == []


def test_a_wrong_command_or_option_is_found() -> None:
    assert calls("Run `gantry run`, or\n```\ngantry fid A \\\n  --n 5   # fast\n```\n") == ["run", "fid A  --n 5"]
    assert [unknown(call) for call in ("run", "runs", "data add x --copy", "data add x --move")] == [
        "",
        "runs",
        "",
        "--move",
    ]
    assert len(COMMANDS) > 20
