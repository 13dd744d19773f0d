"""Every user of a machine can use the temporary folders that Prefect and Ray make for the first user only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.toy import environment

AS_ANOTHER_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
"""Runs a command of root without its right to write everywhere: python may lie where no other user can read it."""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
@pytest.mark.parametrize(
    ("share", "folder", "use"),
    [
        (
            "share_runner_folder",
            "runner_storage",
            "from prefect.runner import Runner; Runner()._tmp_dir.mkdir(parents=True)",
        ),
        (
            "share_lock_folder",
            "_ray_lockfiles",
            "import os\nfrom ray.air._internal.filelock import TempFileLock\nwith TempFileLock(str(os.getpid())): pass",
        ),
    ],
)
def test_a_folder_is_made_for_all_users_and_one_of_another_user_is_named(
    tmp_path: Path, share: str, folder: str, use: str
) -> None:
    def run(program: str) -> subprocess.CompletedProcess[str]:
        called = f"from pipelines.runtime.shared_folder import {share}\n{program}"
        return subprocess.run(
            [*AS_ANOTHER_USER, sys.executable, "-c", called],
            env=environment(TMPDIR=str(tmp_path)),
            capture_output=True,
            text=True,
            check=False,
        )

    made = run(f"{share}()\n{use}")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / folder).stat().st_mode & 0o7777 == 0o1777

    os.chown(tmp_path / folder, 65534, 65534)
    assert run(f"{share}()\n{use}").returncode == 0, "of another user, who has shared it"

    (tmp_path / folder).chmod(0o755)
    refused = run(f"{share}()")
    assert f"needs the folder {tmp_path / folder}, but another user has made it" in refused.stderr
    assert f"chmod 1777 {tmp_path / folder}" in refused.stderr
    assert "Permission denied" in run(use).stderr, "the library itself does not share it"
