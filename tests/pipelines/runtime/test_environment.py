"""What every command sets before it imports a library: only what the user has not set, and no proxy for loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.runtime.environment import DEFAULTS, set_up_environment
from tests.pipelines.toy import environment


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder to work in, and an environment without any of the variables; afterwards both are as before."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in (*DEFAULTS, "PREFECT_HOME", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def test_no_library_reports_home_and_their_folders_are_the_projects_or_the_caches(bare, monkeypatch):
    monkeypatch.setenv("GANTRY_CACHE_DIR", "/cache")
    set_up_environment()
    assert {name: os.environ[name] for name in DEFAULTS} == DEFAULTS
    assert os.environ["PREFECT_HOME"] == f"{bare}/var/prefect"
    assert os.environ["MPLCONFIGDIR"] == "/cache/matplotlib"


def test_relative_folders_of_gantry_are_those_of_the_command_in_all_its_processes(bare, monkeypatch):
    for name in ("GANTRY_CACHE_DIR", "GANTRY_WEIGHTS_DIR", "GANTRY_VAR"):
        monkeypatch.setenv(name, "mine")
    set_up_environment()
    assert (
        os.environ["GANTRY_CACHE_DIR"] == os.environ["GANTRY_VAR"] == os.environ["GANTRY_WEIGHTS_DIR"] == f"{bare}/mine"
    )
    assert os.environ["PREFECT_HOME"] == f"{bare}/mine/prefect"


@pytest.mark.skipif(sys.platform != "linux", reason="DVC has another place on other systems")
def test_dvc_has_a_place_for_its_files_where_its_own_cannot_be_written(bare, monkeypatch):
    monkeypatch.setenv("GANTRY_CACHE_DIR", "/cache")
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    set_up_environment()
    assert "DVC_SITE_CACHE_DIR" not in os.environ
    monkeypatch.setattr("pipelines.runtime.environment.DVC_PLACE", str(bare / "no folder"))
    set_up_environment()
    assert os.environ["DVC_SITE_CACHE_DIR"] == "/cache/dvc"


def test_what_the_user_has_set_stays(bare):
    wishes = {"DO_NOT_TRACK": "0", "PREFECT_HOME": "/my/prefect", "MPLCONFIGDIR": "/my/fonts"}
    os.environ.update(wishes)
    set_up_environment()
    assert {name: os.environ[name] for name in wishes} == wishes


def test_servers_on_this_machine_are_never_reached_through_a_proxy(bare):
    os.environ.update(http_proxy="http://proxy:3128", no_proxy="example.org")
    set_up_environment()
    assert {"localhost", "127.0.0.1", "example.org"} <= {*os.environ["NO_PROXY"].split(",")}


def test_a_user_without_a_home_and_a_folder_that_is_gone_are_for_the_command_to_report(bare, monkeypatch):
    def homeless(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("GANTRY_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    bare.rmdir()
    set_up_environment()
    assert not {"MPLCONFIGDIR", "PREFECT_HOME"} & {*os.environ}


def test_closed_standard_streams_lead_to_nothing_and_not_into_the_next_file(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; from pipelines.runtime.environment import open_standard_streams\n"
        "open_standard_streams(); file = open(sys.argv[1], 'w')\n"
        "print('printed', flush=True); print('error', file=sys.stderr)\n"
        "subprocess.run([sys.executable, '-c', 'print(1)'], check=True)\n"
        "file.write(f'read: {sys.stdin.read()!r}')"
    )
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(tmp_path / "next")]
    subprocess.run(command, env=environment(), check=True)
    assert (tmp_path / "next").read_text() == "read: ''"
