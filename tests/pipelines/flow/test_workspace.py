"""Worktrees: one commit, data from the shared cache, overridden parameters, removal at the end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from gan_core.errors import DataError, SettingsError, StageError
from pipelines.flow.overrides import check_settings
from pipelines.flow.workspace import (
    check_checkout,
    check_raw_data,
    check_revision,
    checkout_workspace,
    exclusive_run,
    find_commit,
    remove_abandoned,
    run_dvc,
    worktree_workspace,
)
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import run_git
from pipelines.settings.tracking_uri import URI_VARIABLES
from tests.pipelines.toy import CHECKOUT, environment, start
from tests.pipelines.toy import dvc as dvc_command
from tests.pipelines.toy import run as run_command


@pytest.fixture
def data_project(flow_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy project with its raw data under DVC, and a relative remote."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "toy")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "toy@example.org")
    run_command("git", "rm", "-q", "--cached", "raw", cwd=flow_project)
    dvc_command("add", "-q", "raw", cwd=flow_project)
    (flow_project / ".dvc" / "config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../store\n"
    )
    run_command("git", "add", "-A", cwd=flow_project)
    run_command("git", "commit", "-qm", "data", cwd=flow_project)
    return flow_project


def _worktree(project: Path, name: str = "one", **options):
    return worktree_workspace(Checkout.at(project), **{"revision": "main", "overrides": {}, "name": name, **options})


def test_a_worktree_runs_a_commit_and_is_removed(data_project):
    (data_project / "params.yaml").write_text("never: committed\n")
    with _worktree(data_project, overrides={"seconds_b": 0.5}) as workspace:
        root = workspace.checkout.root
        assert root.is_relative_to(data_project / "var")
        assert (root / "raw").read_text() == "raw\n"
        assert "seconds_b: 0.5" in (root / "params.yaml").read_text()
        assert "fail: none" in (root / "params.yaml").read_text()
        assert workspace.environment["GANTRY_VAR"] == str(data_project / "var")
        assert (root / ".dvc" / "config.local").stat().st_mode & 0o077 == 0, "it may hold credentials of remotes"
        assert workspace.environment["PYTHONPATH"].split(os.pathsep)[0] == str(root)
        run_dvc(workspace.checkout, workspace.environment, "repro", "-q")
        run_dvc(workspace.checkout, workspace.environment, "exp", "save", "-n", "night")
        # To the same place as from the checkout, though its address is relative.
        run_dvc(workspace.checkout, workspace.environment, "push", "-q")
        with Repo(str(root)) as repo:
            state = Path(repo.site_cache_dir)
        assert state.is_dir()
    assert not root.exists()
    assert not state.exists(), "DVC keeps it in /var/tmp, for each worktree that ever was"
    assert "worktrees" not in run_git(data_project, "worktree", "list")
    assert (data_project / "store").is_dir()
    assert "night" in dvc_command("exp", "list", "--name-only", cwd=data_project).stdout
    assert (data_project / "params.yaml").read_text() == "never: committed\n"


def test_the_path_of_a_checkout_may_have_any_letters(data_project, tmp_path):
    project = data_project.rename(tmp_path / "J\u00f6rgs \u4e2d 'and' \"more\"")
    with _worktree(project) as workspace:
        run_dvc(workspace.checkout, workspace.environment, "repro", "-q")
        run_dvc(workspace.checkout, workspace.environment, "exp", "save", "-n", "night")
        run_dvc(workspace.checkout, workspace.environment, "push", "-q")
    assert (project / "store").is_dir()
    assert "night" in dvc_command("exp", "list", "--name-only", cwd=project).stdout


def test_two_worktrees_at_once_are_separate_and_share_the_cache(data_project):
    with (
        _worktree(data_project, "one") as one,
        _worktree(data_project, "two", overrides={"seconds_b": 0.1}) as two,
    ):
        run_dvc(one.checkout, one.environment, "repro", "-q")
        said = run_dvc(two.checkout, two.environment, "repro")
        assert "Stage 'first' is cached" in said
        assert "Running stage 'second'" in said
        assert "seconds_b: 0\n" in (one.checkout.root / "params.yaml").read_text()
    assert "dvc.lock" not in run_git(data_project, "status", "--short")


def test_data_that_is_not_in_the_cache_comes_from_the_remote_or_is_an_error(data_project):
    dvc_command("push", "-q", cwd=data_project)
    run_command("rm", "-rf", ".dvc/cache", cwd=data_project)
    with _worktree(data_project) as workspace:
        assert (workspace.checkout.root / "raw").read_text() == "raw\n"
    run_command("rm", "-rf", ".dvc/cache", cwd=data_project)
    (data_project / ".dvc" / "config").write_text("")
    run_command("git", "commit", "-qam", "no remote", cwd=data_project)
    with (
        pytest.raises(StageError, match="not in DVC's cache: raw.dvc. Run dvc commit raw.dvc in the checkout"),
        _worktree(data_project),
    ):
        pass
    assert not list((data_project / "var" / "worktrees").iterdir())


def test_an_unknown_revision_is_an_error(data_project):
    with pytest.raises(StageError, match="no revision 'mian'"), _worktree(data_project, revision="mian"):
        pass


def test_a_revision_is_never_an_option_of_git(data_project, tmp_path):
    for revision in ("--upload-pack=touch mine", "--help", "-h", "^main", "--git-dir", "", "main@{99999}"):
        with pytest.raises(StageError, match="There is no revision"):
            find_commit(Checkout.at(data_project), revision)


def test_a_client_can_use_only_commits_of_branches_tags_and_head(data_project):
    """A repository may also hold commits that other people pushed or that were fetched only for review."""
    tree = run_git(data_project, "rev-parse", "HEAD^{tree}")
    strangers = run_git(data_project, "commit-tree", "-m", "not on a branch", tree)
    run_git(data_project, "update-ref", "refs/pull/1/head", strangers)
    assert find_commit(Checkout.at(data_project), strangers) == strangers
    for name in (strangers, strangers[:12], "refs/pull/1/head"):
        with pytest.raises(StageError, match="is not on a branch or tag"):
            find_commit(Checkout.at(data_project), name, from_client=True)
    head = run_git(data_project, "rev-parse", "HEAD")
    assert find_commit(Checkout.at(data_project), "main", from_client=True) == head
    assert find_commit(Checkout.at(data_project), "HEAD~1", from_client=True) == run_git(
        data_project, "rev-parse", "HEAD~1"
    )
    run_git(data_project, "tag", "seen", strangers)
    assert find_commit(Checkout.at(data_project), strangers, from_client=True) == strangers


def test_a_checkout_may_be_a_subfolder_of_a_larger_repository(flow_template, tmp_path):
    larger = tmp_path / "larger"
    project = larger / "gans" / "project"
    shutil.copytree(flow_template, project, ignore=shutil.ignore_patterns(".git"))
    shutil.rmtree(project / ".dvc")
    (larger / "README").write_text("more\n")
    run_command("git", "init", "-q", "-b", "main", cwd=larger)
    dvc_command("init", "-q", "--subdir", cwd=project)
    run_command("git", "add", "-A", cwd=larger)
    run_command("git", "commit", "-qm", "both", cwd=larger)
    check_revision(Checkout.at(project), "main", {})
    with _worktree(project, overrides={"seconds_b": 0.5}) as workspace:
        assert workspace.checkout.root.is_relative_to(project / "var")
        assert workspace.checkout.root.parts[-2:] == ("gans", "project")
        run_dvc(workspace.checkout, workspace.environment, "repro", "-q")
        assert (workspace.checkout.root / "b").read_text() == "raw\na\nb\n"
        run_dvc(workspace.checkout, {**workspace.environment, **environment()}, "exp", "save", "-n", "night")
    assert "night" in dvc_command("exp", "list", "--name-only", cwd=project).stdout
    assert not list((project / "var" / "worktrees").iterdir())
    assert "worktrees" not in run_git(larger, "worktree", "list")


def test_without_a_repository_the_remedy_is_to_make_one(flow_project):
    shutil.rmtree(flow_project / ".git")
    with pytest.raises(StageError, match=r"is not in a git repository.*git init"), _worktree(flow_project):
        pass


def test_an_unreadable_repository_is_an_error_with_gits_reason(flow_project):
    (flow_project / ".git" / "config").write_text("[core\n")
    with pytest.raises(StageError, match="bad config"), _worktree(flow_project):
        pass


def test_a_failing_hook_of_the_checkout_does_not_concern_a_worktree(data_project):
    """The hook post-checkout of ``dvc install`` runs ``dvc checkout``, and a new worktree has no cache yet."""
    hook = data_project / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 255\n")
    hook.chmod(0o755)
    with _worktree(data_project) as workspace:
        assert (workspace.checkout.root / "raw").is_file()


def test_a_revision_without_dvc_yaml_is_an_error(data_project):
    run_command("git", "rm", "-q", "dvc.yaml", cwd=data_project)
    run_command("git", "commit", "-qm", "none", cwd=data_project)
    with pytest.raises(StageError, match=r"has no dvc\.yaml"), _worktree(data_project):
        pass
    assert not list((data_project / "var" / "worktrees").iterdir())


def test_the_error_of_a_command_has_no_password(flow_project):
    address = "http://u:opensesame@127.0.0.1:9/x"
    with pytest.raises(StageError, match="dvc push") as by_dvc:
        run_dvc(Checkout.at(flow_project), environment(), "push", address)
    with pytest.raises(StageError, match="git fetch") as by_git:
        run_git(flow_project, "fetch", address)
    assert "opensesame" not in f"{by_dvc.value} {by_git.value}"


def test_a_stage_does_not_get_the_password_of_the_prefect_server(flow_project, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "gantry:secret")
    assert "gantry:secret" not in checkout_workspace(Checkout.at(flow_project)).environment.values()


def test_the_next_run_removes_the_worktree_of_a_killed_run(data_project):
    code = (
        "import sys, time; from pipelines.flow.workspace import *\n"
        "with worktree_workspace(Checkout.at(), revision='main', overrides={}, name='killed'):\n"
        "    print('ready', flush=True); time.sleep(300)"
    )
    process = start(sys.executable, "-c", code, cwd=data_project)
    assert process.stdout.readline() == "ready\n"
    remove_abandoned(Checkout.at(data_project))
    left = data_project / "var" / "worktrees" / "killed"
    assert left.exists(), "a living run's worktree was removed"
    process.kill()
    process.communicate()
    assert left.exists()
    remove_abandoned(Checkout.at(data_project))
    assert not left.exists()
    assert "worktrees" not in run_git(data_project, "worktree", "list")


def test_other_worktrees_of_the_repository_stay_even_if_they_cannot_be_reached(data_project):
    run_command("git", "worktree", "add", "-q", "-b", "mine", "../mine", cwd=data_project)
    mine, away = data_project.with_name("mine"), data_project.with_name("away")
    mine.rename(away)
    with _worktree(data_project) as workspace:
        (workspace.checkout.root / ".git").unlink()  # git itself does not remove it then
    assert len(run_git(data_project, "worktree", "list").splitlines()) == 2
    away.rename(mine)
    assert run_git(mine, "branch", "--show-current") == "mine"


def test_a_worktree_tracks_to_the_checkouts_store(data_project, monkeypatch):
    for variable in URI_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with _worktree(data_project) as workspace:
        assert "GANTRY_TRACKING_URI" not in workspace.environment
    params = data_project / "params.yaml"
    params.write_text(params.read_text() + "track:\n  uri: sqlite:///var/mlflow.db\n")
    run_command("git", "commit", "-qam", "a store", cwd=data_project)
    with _worktree(data_project) as workspace:
        assert workspace.environment["GANTRY_TRACKING_URI"] == f"sqlite:///{data_project}/var/mlflow.db"
    with _worktree(data_project, overrides={"track.uri": "http://tracker"}) as workspace:
        assert workspace.environment["GANTRY_TRACKING_URI"] == "http://tracker"


@pytest.fixture
def gantry_checkout(data_project: Path) -> Path:
    """A checkout of Gantry with its own settings and the stages of the toy project."""
    for package in ("gan_core", "pipelines"):
        (data_project / package).symlink_to(CHECKOUT / package)
    shutil.copy(CHECKOUT / "params.yaml", data_project)
    with (data_project / "dvc.yaml").open("a", encoding="utf-8") as stages:
        stages.write("  register:\n    cmd: gantry stage register\n")
    return data_project


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("channels: 1 ", "chanels: 1 ", r"params.yaml: Unknown setting 'ingest.chanels'. Did you mean 'channels'"),
        ("size: [32, 32]", "size: [8, 8]", r"dcgan generates pictures of 16 .*ingest.size"),
        ("flow:", "flow: {", r"(?s)params.yaml is not YAML: .*line \d+"),
    ],
)
def test_all_settings_of_a_checkout_are_checked(gantry_checkout, old, new, message):
    params = gantry_checkout / "params.yaml"
    text = params.read_text()
    check_settings(Checkout.at(gantry_checkout), environment())
    params.write_text(text.replace(old, new))
    with pytest.raises(SettingsError, match=message):
        check_settings(Checkout.at(gantry_checkout), environment())


def test_an_unknown_stage_is_an_error_before_the_run(flow_project):
    check_checkout(Checkout.at(flow_project), ["first"])
    with pytest.raises(StageError, match="no stage 'frist'"):
        check_checkout(Checkout.at(flow_project), ["frist"])
    params = flow_project / "params.yaml"
    params.write_text(params.read_text() + "flow: {timeout_s: {secnd: 3}}\n")
    with pytest.raises(SettingsError, match=r"flow.timeout_s: unknown stage 'secnd'. Did you mean 'second'"):
        check_checkout(Checkout.at(flow_project), [])


@pytest.mark.parametrize(
    ("tracked", "message"),
    [
        (
            False,
            "there is no raw data 'fashion-mnist' in .*, which has birds. Fetch .*gantry data add fashion-mnist PATH",
        ),
        (True, "fashion-mnist does not exist. Restore it from DVC's cache .*dvc pull data/raw/fashion-mnist.dvc"),
    ],
)
def test_missing_raw_data_is_an_error_before_the_run(tmp_path, tracked, message):
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    (tmp_path / "data" / "raw" / "birds").mkdir(parents=True)
    if tracked:
        (tmp_path / "data" / "raw" / "fashion-mnist.dvc").touch()
    with pytest.raises(DataError, match=message):
        check_raw_data(Checkout.at(tmp_path))
    (tmp_path / "data" / "raw" / "fashion-mnist").mkdir()
    check_raw_data(Checkout.at(tmp_path))


def test_one_run_at_a_time_in_a_checkout(tmp_path):
    message = rf"in progress in {tmp_path} \(process {os.getpid()}, since .*--revision HEAD"
    with (
        exclusive_run(Checkout.at(tmp_path)),
        pytest.raises(StageError, match=message),
        exclusive_run(Checkout.at(tmp_path)),
    ):
        pass
    with exclusive_run(Checkout.at(tmp_path)):
        pass


def test_stages_in_a_worktree_use_the_code_of_its_commit(data_project):
    """In a checkout of Gantry, the worktree's packages take precedence over the installed ones."""
    package = data_project / "gan_core"
    package.mkdir()
    (package / "__init__.py").write_text("WHICH = 'of the commit'\n")
    run_command("git", "add", "gan_core", cwd=data_project)
    run_command("git", "commit", "-qm", "code", cwd=data_project)
    (package / "__init__.py").write_text("WHICH = 'of the checkout'\n")
    with _worktree(data_project) as workspace:
        command = [sys.executable, "-c", "import gan_core; print(gan_core.WHICH)"]
        said = subprocess.run(command, cwd="/", env=workspace.environment, capture_output=True, text=True, check=True)
    assert said.stdout == "of the commit\n"


def test_a_path_from_which_the_code_of_a_commit_cannot_be_imported_is_an_error(data_project):
    (data_project / "gan_core").mkdir()
    (data_project / "gan_core" / "__init__.py").touch()
    run_command("git", "add", "gan_core", cwd=data_project)
    run_command("git", "commit", "-qm", "code", cwd=data_project)
    moved = data_project.rename(data_project.with_name("10:30"))
    with pytest.raises(StageError, match=r"10:30 has a ':' in its path.*Rename the folder"), _worktree(moved):
        pass
    assert not list((moved / "var" / "worktrees").iterdir())
