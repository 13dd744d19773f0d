"""``gantry init`` writes settings, stages, DVC and git files, but no code."""

from pathlib import Path

import pytest
import yaml

from gan_core.errors import SettingsError, StageError
from pipelines.runtime import new_project
from pipelines.runtime.code import stage_code_paths
from pipelines.runtime.new_project import make_project, project_dvc_yaml
from pipelines.settings.schema import load_settings
from tests.pipelines.toy import CHECKOUT, run


def test_stages_depend_on_digests_not_on_files_of_gantry() -> None:
    stages = yaml.safe_load(project_dvc_yaml())["stages"]
    own = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert list(stages) == ["code", *own]
    assert stages["code"]["always_changed"] is True
    for name, stage in own.items():
        data = [dep for dep in stage["deps"] if dep not in stage_code_paths()[name]]
        assert stages[name] == {**stage, "deps": [*data, f".gantry/code/{name}"]}
        assert {f".gantry/code/{name}": {"cache": False}} in stages["code"]["outs"]


def test_a_new_project_is_committed_and_its_settings_are_valid(tmp_path: Path) -> None:
    root = tmp_path / "a folder" / "project"
    assert make_project(root) is True
    assert run("git", "status", "--porcelain", cwd=root).stdout == ""
    assert load_settings(root / "params.yaml").data.name == "digits"
    assert (root / ".dvc" / "config").is_file()
    assert not [*root.rglob("*.py")]


def test_inside_a_repository_nothing_is_committed(tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    assert make_project(tmp_path / "models") is False
    assert "models/" in run("git", "status", "--porcelain", cwd=tmp_path).stdout


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(SettingsError, match="not an empty folder"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_git_ignores_is_refused_with_the_reason(tmp_path: Path) -> None:
    run("git", "init", "--quiet", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text("/var/\n")
    with pytest.raises(StageError, match=r"project/\.dvc is ignored .* \.gitignore"):
        make_project(tmp_path / "var" / "project")
    assert not (tmp_path / "var" / "project").exists()


def test_nothing_remains_if_dvc_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path) -> bool:
        raise StageError(f"DVC cannot start in {root}: no")

    monkeypatch.setattr(new_project, "_start_repository", refuse)
    with pytest.raises(StageError, match="DVC cannot start"):
        make_project(tmp_path / "project")
    assert not (tmp_path / "project").exists()
