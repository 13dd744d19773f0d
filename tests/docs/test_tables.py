"""The pages of settings say what the typed settings say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from click.testing import CliRunner

from docs.generate.tables import plain_markdown, rows, sections, table
from gan_core.families import FAMILIES
from pipelines.commands.settings import settings

_SETTINGS = '''
from dataclasses import dataclass
from gan_core.config import check, check_choice, check_at_least

MOST = 9
LAYERS = (64, 2048)

@dataclass(frozen=True, kw_only=True)
class Oven:
    shelves: int = 3
    """SHELVES. They can be taken out."""
    heat: float | None = None
    """Degrees."""
    layer: int = 64
    """Which one."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "shelves")
        for name in ("heat",):
            check(True, f"{name}: must be at most {MOST} degrees, got {self.heat}.")
        check_choice(self, LAYERS, "layer")
'''


def module(folder: Path, meaning: str) -> ModuleType:
    """A module with typed settings, of which one means ``meaning``."""
    path = folder / f"{meaning.lower()}.py"
    path.write_text(_SETTINGS.replace("SHELVES", meaning))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made  # inspect looks there for the source
    spec.loader.exec_module(made)
    return made


def test_the_page_has_every_setting_that_the_command_lists_with_its_default() -> None:
    listed = [line for line in CliRunner().invoke(settings).output.splitlines() if line and not line.startswith(" ")]
    defaults = {
        line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in listed if not line.startswith("The other settings")
    }
    shown = {row.name: row.default for name, kind in sections().items() for row in rows(kind, name)}
    assert shown == defaults


def test_every_setting_has_a_meaning_and_a_range() -> None:
    kinds = [*sections().items(), *(("model", family.Config) for family in FAMILIES.values())]
    for section, kind in kinds:
        for row in rows(kind, section):
            assert row.meaning, row.name
            assert row.range, row.name
            assert "{" not in row.range, row


def test_a_changed_docstring_changes_the_table(tmp_path: Path) -> None:
    assert "| Racks. They can be taken out. |" in table(module(tmp_path, "Racks").Oven, "oven")
    assert "| Grids. They can be taken out. |" in table(module(tmp_path, "Grids").Oven, "oven")


def test_ranges_are_those_that_are_checked(tmp_path: Path) -> None:
    shelves, heat, layer = rows(module(tmp_path, "Trays").Oven, "oven")
    assert shelves.range == "whole number, at least 1"
    assert heat.range == "at most 9 degrees, or null"
    assert layer.range == "64, 2048"


def test_roles_become_code() -> None:
    assert plain_markdown("Raise :class:`SettingsError`; see :func:`~gan_core.config.check`.") == (
        "Raise `SettingsError`; see `gan_core.config.check`."
    )
