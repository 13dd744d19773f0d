"""The fault injector records every moment and acts once, at the planned one."""

import errno
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_core.files import write_json, write_text
from tests.chaos.inject import Plan, Point, fired, install, read_points

PRELOAD = Path(__file__).parent / "preload"
FULL = 7


def work(folder: Path) -> None:
    """Replace a file, append to one, write one, remove one, and start a process."""
    write_json(folder / "whole.json", {"a": 1})
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"0123456789")
    os.close(descriptor)
    (folder / "text").write_text("0123456789")
    (folder / "text").unlink()
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def forked(function: Callable[[], object], plan: Plan) -> int:
    """The exit status of a fork that runs ``function`` under ``plan``; FULL if it raises an error of a full disk."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            install(plan)
            function()
            os._exit(0)
        except OSError as error:
            os._exit(FULL if error.errno == errno.ENOSPC else 1)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def planned(tmp_path: Path, folder: Path) -> Callable[..., Plan]:
    def plan(point: Point | None = None, action: str = "kill") -> Plan:
        return Plan(
            log=str(tmp_path / f"moments-{len(list(tmp_path.iterdir()))}"),
            roots=(str(folder),),
            point=point,
            action=action,
        )

    return plan


def test_an_undisturbed_run_records_every_moment(folder: Path, planned: Callable[..., Plan]) -> None:
    plan = planned()
    assert forked(lambda: work(folder), plan) == 0
    assert {str(point) for point in read_points(Path(plan.log))} == {
        "mkdir .whole.json.gantry-* #1",
        "write .whole.json.gantry-*/whole.json #1",
        "rename whole.json #1",
        "remove .whole.json.gantry-* #1",
        "write log #1",
        "append log #1",
        "write text #1",
        "remove text #1",
        f"start {Path(sys.executable).name} pass #1",
    }
    assert not fired(Path(plan.log))


@pytest.mark.parametrize(
    ("point", "action", "status", "left"),
    [
        (Point("rename", "whole.json"), "kill", -signal.SIGKILL, {}),
        (Point("write", "text"), "kill", -signal.SIGKILL, {"log": "0123456789", "whole.json": '{\n  "a": 1\n}\n'}),
        (Point("write", "text"), "tear", -signal.SIGKILL, {"log": "0123456789", "text": "01234"}),
        (Point("append", "log"), "tear", -signal.SIGKILL, {"log": "01234"}),
        (Point("append", "log"), "fill", FULL, {"log": "01234"}),
        (Point("write", "text"), "fill", FULL, {"text": "01234"}),
        (Point("mkdir", ".whole.json.gantry-*"), "full", FULL, {}),
        (Point("write", "text"), "interrupt", 1, {}),
        (Point("write", "text"), "terminate", -signal.SIGTERM, {}),
        (Point("write", "text", 2), "kill", 0, {}),
        (Point("write", "log"), "fill", 0, {}),
        (Point("write", "log"), "tear", 0, {}),
    ],
    ids=str,
)
def test_the_planned_moment_fails(
    folder: Path, planned: Callable[..., Plan], point: Point, action: str, status: int, left: dict[str, str]
) -> None:
    plan = planned(point, action)
    assert forked(lambda: work(folder), plan) == status
    assert fired(Path(plan.log)) == (status != 0)
    for name, content in left.items():
        assert (folder / name).read_text() == content
    again = forked(lambda: work(folder), plan)
    assert again == 0, "it acts once in all processes"


def test_a_request_and_its_answer_are_moments(folder: Path, planned: Callable[..., Plan]) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/api/runs/0123456789abcdef?x=1"
        code = f"import urllib.request; print(urllib.request.urlopen({url!r}).read())"
        plan = planned()
        environment = {**os.environ, "PYTHONPATH": str(PRELOAD), "GANTRY_CHAOS": plan.to_json(), "no_proxy": "*"}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        assert {str(point) for point in read_points(Path(plan.log))} == {
            "send GET /api/runs/* #1",
            "answer GET /api/runs/* #1",
        }
        killed = planned(Point("answer", "GET /api/runs/*"))
        environment["GANTRY_CHAOS"] = killed.to_json()
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
        server.shutdown()


def test_a_plan_survives_json(planned: Callable[..., Plan]) -> None:
    for plan in (planned(), planned(Point("write", "a b", 3), "fill")):
        assert Plan.from_json(plan.to_json()) == plan
        json.loads(plan.to_json())


def test_files_elsewhere_do_not_count(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    plan = planned()
    assert forked(lambda: write_text(tmp_path / "elsewhere", "x"), plan) == 0
    assert read_points(Path(plan.log)) == []


def test_a_copy_is_torn_as_a_write_is(folder: Path, planned: Callable[..., Plan]) -> None:
    (folder / "from").write_text("0123456789")
    plan = planned(Point("write", "to", 1), "tear")
    assert forked(lambda: shutil.copyfile(folder / "from", folder / "to"), plan) == -signal.SIGKILL
    assert (folder / "to").read_text() == "01234"
