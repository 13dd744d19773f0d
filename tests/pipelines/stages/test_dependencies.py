"""A change of code that determines a stage's result makes dvc run the stage again: dvc.yaml names all of it."""

import ast
from pathlib import Path

import pytest
import yaml

from tests.pipelines.toy import CHECKOUT

WITHOUT_A_SAY = {
    "gan_core/__init__.py",
    "gan_core/cache.py",  # names the folder of caches, whose content is checked or derived
    "gan_core/config.py",  # builds and checks settings, whose values are dvc's parameters
    "gan_core/disk.py",  # words for what the disk refuses
    "gan_core/errors.py",
    "gan_core/download",  # what it brings is checked by its SHA-256 sum, and those sums are in weights.py
    "gan_core/files.py",
    "gan_core/locks.py",
    "gan_core/memory.py",  # where data is kept, and what an error means: results do not depend on either
}
"""Modules that do not influence the result of any stage."""

NOT_WHEN_EVALUATED = {
    "gan_core/augment",
    "gan_core/checkpoint.py",
    "gan_core/schedule.py",
    "gan_core/training",
}
"""Modules that are not needed to measure an existing generator."""


def module(name: str) -> Path | None:
    place = CHECKOUT.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {found for name in names if name.startswith("gan_core") and (found := module(name))}


def reached(start: list[Path]) -> set[Path]:
    found: set[Path] = set()
    left = list(start)
    while left:
        path = left.pop()
        if path not in found:
            found.add(path)
            left += imported(path)
    return found


def sources(place: str) -> list[Path]:
    path = CHECKOUT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def covered(path: str, places: set[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize(
    ("stage", "others"),
    [("tune", set()), ("train", set()), ("evaluate", NOT_WHEN_EVALUATED)],
    ids=["tune", "train", "evaluate"],
)
def test_every_module_of_gan_core_that_a_stage_reaches_is_among_its_dependencies(stage: str, others: set[str]) -> None:
    deps = set(yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"])
    own = [path for dep in deps if dep.startswith("pipelines/") for path in sources(dep)]
    assert own
    paths = {path.relative_to(CHECKOUT).as_posix() for path in reached(own)}
    assert {path for path in paths if path.startswith("gan_core")} > {"gan_core/data.py", "gan_core/randomness.py"}
    forgotten = {
        path for path in paths if path.startswith("gan_core") and not covered(path, deps | others | WITHOUT_A_SAY)
    }
    assert forgotten == set()


def test_modules_without_influence_are_imported() -> None:
    """An exception that no stage imports would hide a later module of the same name."""
    paths = {
        path.relative_to(CHECKOUT).as_posix()
        for place in ("tuning", "training", "evaluation", "stages")
        for path in reached(sources(f"pipelines/{place}"))
    }
    assert {
        place for place in WITHOUT_A_SAY | NOT_WHEN_EVALUATED if not any(covered(path, {place}) for path in paths)
    } == set()


def test_tune_and_train_depend_on_auto() -> None:
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert all("pipelines/stages/auto.py" in stages[stage]["deps"] for stage in ("tune", "train"))


@pytest.mark.parametrize("place", ["gan_core/presets/recipes.py", "pipelines/commands/run.py"])
def test_a_change_of_recipes_or_commands_reruns_no_stage(place: str) -> None:
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert (CHECKOUT / place).is_file()
    assert [name for name, stage in stages.items() if covered(place, set(stage["deps"]))] == []
