"""Make a new project: a folder outside Gantry's source that uses the installed package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gan_core.errors import SettingsError, StageError
from gan_core.files import write_text
from pipelines.runtime.account import git_signature
from pipelines.runtime.code import CODE_STAGE, DIGEST_FOLDER, PACKAGES, TEMPLATE, stage_code_paths
from pipelines.runtime.git import ANY_STATUS, GitError, run_git

_FILES = {"params.yaml": "params.yaml", "README.md": "README.md", "gitignore": ".gitignore"}


def make_project(root: Path) -> bool:
    """Write a new project to ``root``, which must be empty or not exist; returns whether the project was committed to git.

    Outside a git repository, this makes one with the project as its first commit. Inside one, nothing is committed.

    Raises:
        SettingsError: ``root`` is a file or a folder that is not empty.
        StageError: git or DVC fails. The written files are removed again.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SettingsError(f"{root} exists and is not an empty folder. Name another folder, or empty this one.")
    existed = root.is_dir()
    root.mkdir(parents=True, exist_ok=True)
    try:  # written in place, not moved there at the end: the user's shell may be in this folder
        for source, target in _FILES.items():
            shutil.copyfile(TEMPLATE / source, root / target)
        write_text(root / "dvc.yaml", project_dvc_yaml())
        return _start_repository(root)
    except BaseException:
        for entry in root.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not existed:
            root.rmdir()
        raise


def project_dvc_yaml() -> str:
    """The dvc.yaml of a project: Gantry's own stages, each depending on a digest of the installed code instead of its files."""
    text = (TEMPLATE / "stages.yaml").read_text(encoding="utf-8")
    other, own = rf"      - (?!{'|'.join(PACKAGES)}).*\n", rf"      - (?:{'|'.join(PACKAGES)}).*\n"
    for name in stage_code_paths():
        head = rf"(\n  {name}:\n(?:    .*\n)*?    deps:\n(?:{other})*)"
        text = re.sub(f"{head}(?:{own})+", rf"\g<1>      - {DIGEST_FOLDER}/{name}\n", text, count=1)
    outs = "".join(f"      - {DIGEST_FOLDER}/{name}:\n          cache: false\n" for name in stage_code_paths())
    stage = (
        f"stages:\n  {CODE_STAGE}:\n    desc: Digests of the installed Gantry's code, so that an upgrade runs what it changes\n"
        f"    cmd: gantry stage {CODE_STAGE}\n    always_changed: true\n    outs:\n{outs}\n"
    )
    return text.replace("stages:\n", stage, 1)


def _start_repository(root: Path) -> bool:
    try:
        run_git(root, "rev-parse", "--git-dir")
        inside = True
    except GitError as error:
        if "not a git repository" not in error.reason:
            raise
        inside = False
        run_git(root, "init", "--quiet")
    at_top = not inside or not run_git(root, "rev-parse", "--show-prefix")
    # Not --quiet, with which DVC does not say why it fails.
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "init", *([] if at_top else ["--subdir"])],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = " ".join(done.stderr.split()).removeprefix("ERROR: failed to initiate DVC - ")
        raise StageError(f"DVC cannot start in {root}: {reason}")
    if inside:
        return False
    signature = git_signature(lambda name: run_git(root, "config", name, empty_on=ANY_STATUS))
    run_git(root, "add", "--all")
    run_git(root, "commit", "--quiet", "-m", "Start a Gantry project", environment={**os.environ, **signature})
    return True
