"""The ``gantry`` command: its table, its errors, and the environment of its child processes."""

import errno
import http.client
import os
import re
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow
import pytest
from click.testing import CliRunner

from gan_core.errors import DataError
from pipelines import cli
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.failures import MAX_LOGS, explain_error
from tests.pipelines.toy import CHECKOUT, environment
from tests.small_disk import gantry, run_on_small_disk


def test_an_error_of_the_system_is_one_line_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def command(**_: object) -> None:
        (tmp_path / "file" / "inside").read_text()

    monkeypatch.setattr(cli, "gantry", command)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert f"error: {tmp_path}/file/inside: not a directory." in capsys.readouterr().err


def test_a_terminated_stage_prints_no_native_stack():
    """Ray reads the switch when it is imported. A user's own setting is kept."""
    code = (
        "from pipelines.runtime.environment import set_up_environment; set_up_environment()\n"
        "import ray._private.ray_constants as c; print(c.RAY_DISABLE_FAILURE_SIGNAL_HANDLER)"
    )
    for wish, expected in ((None, "True"), ("0", "False")):
        variables = environment(**({"RAY_DISABLE_FAILURE_SIGNAL_HANDLER": wish} if wish else {}))
        if wish is None:
            variables.pop("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", None)
        done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=variables, capture_output=True, text=True)
        assert done.stdout.split() == [expected], done.stderr


def test_listing_the_commands_imports_none_of_them():
    code = """
import sys
from pipelines.cli import gantry
try:
    gantry(["--help"])
finally:
    print(sorted({"torch", "prefect", "mlflow"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


def test_the_process_of_a_flow_imports_no_torch():
    """It waits for stages for hours. Torch would cost it seconds at each start, and memory that the stages need."""
    code = "import sys, pipelines.flow.flow; print(sorted({'torch', 'mlflow', 'ray', 'pandas'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    command = cli.gantry.get_command(None, name)
    assert command is not None
    assert command.name == name


def _errors() -> dict[str, tuple[BaseException, str]]:
    """An error of each external kind, and a pattern that its message must match."""
    import dvc.exceptions
    import httpx
    import mlflow.exceptions
    import prefect.exceptions
    import pyarrow as pa
    import ray.exceptions
    import requests
    import sqlalchemy.exc
    import torch

    log = r"Its traceback is in \S+\.log\."
    return {
        "full disk": (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            r"/x/y: no space left .* Free some space",
        ),
        "full disk, unnamed": (
            OSError(errno.ENOSPC, "No space left on device"),
            r"no space left on device, somewhere that this command writes: .*output goes to.* Free some space",
        ),
        "open files": (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x/y"),
            rf"/x/y: too many open files. Raise the limit of this shell \(ulimit -n 4096\).* {log}",
        ),
        "processes": (
            BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
            rf"The system starts no more processes .*ulimit -u.* {log}",
        ),
        "threads": (RuntimeError("can't start new thread"), rf"The system starts no more processes .* {log}"),
        "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "/x/y"), r"/x/y: disk quota exceeded"),
        "read-only": (
            OSError(errno.EROFS, "Read-only file system", "/x/y"),
            r"/x/y: read-only file system. Make it writ",
        ),
        "rights": (PermissionError(errno.EACCES, "Permission denied", "/x/y"), r"/x/y: permission denied. Change its"),
        "long name": (OSError(errno.ENAMETOOLONG, "File name too long", "/x/y"), r"/x/y: file name too long"),
        "device": (OSError(errno.EIO, "Input/output error", "/x/y"), r"/x/y: input/output error"),
        "connection": (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), rf"did not answer .* {log}"),
        "time-out": (TimeoutError("timed out"), rf"did not answer .* {log}"),
        "urllib": (urllib.error.URLError("no route to host"), r"A server failed: URLError: .*no route to host"),
        "http": (http.client.RemoteDisconnected("closed"), r"A server (failed|did not answer).*closed"),
        "tls": (
            ssl.SSLError(1, "certificate verify failed"),
            r"A server failed: SSLError: .*certificate verify failed",
        ),
        "httpx": (
            httpx.ConnectError("All connection attempts failed"),
            r"A server failed: ConnectError: All connection",
        ),
        "requests": (
            requests.ConnectionError("http://u:opensesame@h/ refused"),
            r"A server failed: ConnectionError: http://h/",
        ),
        "mlflow": (mlflow.exceptions.MlflowException("503"), rf"MLflow failed: MlflowException: 503. {log}"),
        "prefect": (prefect.exceptions.PrefectException("gone"), rf"Prefect failed: PrefectException: gone. {log}"),
        "ray": (ray.exceptions.RaySystemError("lost"), r"Ray failed: RaySystemError: .*lost"),
        "dvc": (dvc.exceptions.DvcException("locked"), rf"DVC failed: DvcException: locked. {log}"),
        "sqlite": (
            sqlite3.DatabaseError("file is not a database"),
            r"The database failed: DatabaseError: file is not a",
        ),
        "sqlite, full": (sqlite3.OperationalError("database or disk is full"), r"no space left on device"),
        "sqlalchemy": (
            sqlalchemy.exc.DBAPIError("SELECT", {}, Exception("malformed")),
            r"The database failed: .*malformed",
        ),
        "arrow": (pa.ArrowInvalid("not a Parquet file"), r"Arrow failed: ArrowInvalid: not a Parquet file"),
        "memory": (MemoryError(), rf"Out of memory. Close other programs, .* {log}"),
        "gpu memory": (torch.OutOfMemoryError("CUDA"), rf"Out of memory. .* {log}"),
        "text": (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            rf"UnicodeDecodeError: .* report it. {log}",
        ),
        "anything": (
            ZeroDivisionError("division by zero"),
            rf"ZeroDivisionError: division by zero\)\. .* report it. {log}",
        ),
        "ours": (DataError("There are no pictures."), r"error: There are no pictures\."),
        "ctrl-c": (KeyboardInterrupt(), r"^\s*Stopped\.$"),
    }


def _leaves() -> Iterator[tuple[list[str], click.Command]]:
    """Each command of the table and of its groups, with its arguments."""
    for name in cli.COMMANDS:
        command = cli.gantry.get_command(None, name)  # type: ignore[arg-type]
        if isinstance(command, click.Group):
            yield from (([name, below], found) for below, found in command.commands.items())
        elif command is not None:
            yield [name], command


@pytest.mark.parametrize("words", [words for words, _ in _leaves()], ids=" ".join)
def test_any_error_of_any_command_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "redact_output", lambda: None)  # it would take the streams from pytest
    monkeypatch.setattr(sys, "argv", ["gantry", *words])
    command = next(found for known, found in _leaves() if known == words)
    monkeypatch.setattr(command, "params", [])
    for kind, (error, told) in _errors().items():

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(command, "callback", fail)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        assert caught.value.code == (130 if kind == "ctrl-c" else 1), kind
        assert re.search(told, printed.err.strip()), (kind, printed.err)
        assert len(printed.err.strip().splitlines()) == 1, (kind, printed.err)
        assert not printed.out, kind
        assert "opensesame" not in printed.err


def test_output_to_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    command = [*gantry("settings")]
    ended = run_on_small_disk(
        ["sh", "-c", '"$@" > "$DISK/output" || exit', "sh", *command],
        tmp_path / "disk",
        before='{ cat /dev/zero > "$DISK/other" 2> /dev/null; true; }',
    )
    assert ended.status == 1
    assert re.search(r"disk/output: no space left on device \(0 bytes of 64.0 KiB free", ended.output), ended.output


def test_a_closed_pipe_ends_a_command_silently(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"set -o pipefail; {sys.executable} -c 'from pipelines.cli import main; main()' settings | head -n 1",
        ],
        cwd=CHECKOUT,
        env=environment(PYTHONUNBUFFERED="1"),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_the_traceback_of_an_unexpected_error_is_saved_privately_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    try:
        raise ZeroDivisionError("http://user:opensesame@host")
    except ZeroDivisionError as error:
        told = explain_error(error)
    (log,) = (tmp_path / "var").glob("gantry-error-*.log")
    assert str(log) in told
    text = log.read_text()
    assert "Traceback" in text
    assert "opensesame" not in text + told
    assert log.stat().st_mode & 0o777 == 0o600


def test_an_error_is_attributed_to_the_library_that_raised_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    with pytest.raises(TypeError) as librarys:
        pyarrow.Table.from_pylist(3)
    assert explain_error(librarys.value).startswith("Arrow failed: TypeError")
    with pytest.raises(KeyError) as own:
        {}["x"]
    assert "bug in Gantry" in explain_error(own.value)


def test_a_current_folder_that_was_removed_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError) as raised:
        Checkout.at()
    assert explain_error(raised.value).startswith("The current folder does not exist any more. Change to")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert str(tmp_path / "gantry-error-") in explain_error(ZeroDivisionError("x")), "another error has its traceback"


def test_the_newest_tracebacks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    (tmp_path / "var").mkdir()
    for number in range(30):
        log = tmp_path / "var" / f"gantry-error-old-{number}.log"
        log.touch()
        os.utime(log, (number, number))
    (tmp_path / "var" / "other.log").touch()
    told = explain_error(ZeroDivisionError("x"))
    logs = {path.name for path in (tmp_path / "var").glob("gantry-error-*.log")}
    assert len(logs) == MAX_LOGS
    assert {f"gantry-error-old-{number}.log" for number in range(11, 30)} < logs
    assert any(name in told for name in logs)
    assert (tmp_path / "var" / "other.log").exists()


def test_unprintable_characters_are_escaped() -> None:
    code = "import sys; from pipelines import cli; cli.gantry = lambda **_: print('\u00fc \u4e2d'); cli.main()"
    variables = environment(PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=variables, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"\xfc \\u4e2d\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["promote", ""], "The argument after 'promote' is empty."),
        (["run", "--revision", ""], "The argument after '--revision' is empty."),
        (["run", "--revision="], "The value of --revision is empty."),
        (["data", "diff", "", ""], "The argument after 'diff' is empty."),
        (["deploy", "--set", "register.name=", "--name", ""], "The argument after '--name' is empty."),
    ],
)
def test_an_empty_word_is_wrong_usage_and_not_a_default(words: list[str], told: str) -> None:
    """As of a shell variable without a value: ``gantry promote "$VERSION"`` promoted the newest version."""
    refused = CliRunner().invoke(cli.gantry, words)
    assert refused.exit_code == 2
    assert told in refused.output
    assert "check that the variable is set" in refused.output
