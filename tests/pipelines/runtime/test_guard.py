"""A guard ends its work and all descendants when the parent, the work or the guard is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.runtime import guard
from pipelines.runtime.guard import (
    global_identity,
    guarded_command,
    is_process_alive,
    is_running,
    process_identity,
)
from tests.pipelines.toy import environment, running, start, wait_for

# A stage-like process: under a guard, with a child, a grandchild that detached itself, and a stubborn one.
WORK = """
import os, signal, subprocess, sys, time
from pathlib import Path
from pipelines.runtime.guard import enter_guard
enter_guard(grace=1.0)
here = Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep)
detached = subprocess.run(
    [sys.executable, "-c", "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, "
     "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)", *sleep], capture_output=True, text=True).stdout.strip()
stubborn = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, "
                             "flush=True); time.sleep(300)"], stdout=subprocess.PIPE)
stubborn.stdout.readline()
(here / "pids.new").write_text(f"{os.getppid()} {os.getpid()} {child.pid} {detached} {stubborn.pid}")
(here / "pids.new").rename(here / "pids")
try:
    time.sleep(float(sys.argv[2]))
finally:
    (here / "tidied").touch()
"""
# The process that a guard is to die with: the parent of the work.
PARENT = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


@pytest.fixture
def family(tmp_path: Path):
    """Start the parent and the work; return them as (parent, [guard, work, child, detached, stubborn])."""
    (tmp_path / "work.py").write_text(WORK)
    parents = []
    # Under nohup the tests ignore SIGHUP, and so would all that they start.
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def begin(seconds: float = 300) -> tuple[subprocess.Popen, list[int]]:
        parent = start(sys.executable, "-c", PARENT, "work.py", str(tmp_path), str(seconds), cwd=tmp_path)
        parents.append(parent)
        wait_for((tmp_path / "pids").exists, what="the work's start")
        return parent, [int(pid) for pid in (tmp_path / "pids").read_text().split()]

    yield begin
    signal.signal(signal.SIGHUP, ignored)
    for parent in parents:
        parent.kill()
        parent.wait()
        parent.stdout.close()


def test_everything_ends_when_the_parent_is_killed(family, tmp_path):
    parent, pids = family()
    parent.kill()
    wait_for(lambda: not any(map(running, pids)), 8, f"the end of {pids}")
    assert (tmp_path / "tidied").exists(), "the work was not given the time to tidy up"


def test_everything_ends_when_the_work_is_killed(family):
    parent, pids = family()
    os.kill(pids[1], signal.SIGKILL)
    assert parent.wait(10) == 128 + signal.SIGKILL
    assert not any(map(running, pids))


def test_everything_ends_when_the_guard_is_killed(family):
    _, pids = family()
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: not any(map(running, pids)), 10, f"the end of {pids}")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guard_ends_everything_with_its_exit_status(family, tmp_path, stop):
    parent, pids = family()
    os.kill(pids[0], stop)
    assert parent.wait(10) == 128 + stop
    assert not any(map(running, pids))
    assert (tmp_path / "tidied").exists()


def test_a_signal_during_a_finaliser_ends_the_work_all_the_same(tmp_path):
    """Python ignores an exception there, and would print it."""
    script = (
        "import os, signal, time\n"
        "from pipelines.runtime.guard import enter_guard\n"
        "class Left:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(1000): pass\n"
        "enter_guard(grace=60.0)\n"
        "try:\n"
        "    Left()\n"
        "    time.sleep(60)\n"
        "finally:\n"
        "    print('tidied', flush=True)\n"
    )
    work = start(sys.executable, "-c", script, cwd=tmp_path)
    output, _ = work.communicate(timeout=30)
    assert (output.strip(), work.returncode) == ("tidied", 128 + signal.SIGTERM)


def test_remaining_descendants_end_with_the_work(family):
    parent, pids = family(seconds=0)
    assert parent.wait(10) == 0
    assert not any(map(running, pids))


def test_a_guarded_command_keeps_its_status_and_output():
    command = guarded_command([sys.executable, "-c", "print('said'); raise SystemExit(7)"])
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "said\n")


def test_a_guarded_command_ends_with_the_process_that_started_it(tmp_path):
    script = (
        "import subprocess, sys, time; from pipelines.runtime.guard import guarded_command\n"
        "p = subprocess.Popen(guarded_command([sys.executable, '-c', 'import time; time.sleep(300)']))\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(300)"
    )
    owner = start(sys.executable, "-c", script, cwd=tmp_path)
    guard = int(owner.stdout.readline())
    wait_for(lambda: psutil.Process(guard).children(), what="the command's start")
    command = psutil.Process(guard).children()[0].pid
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for(lambda: not running(guard) and not running(command), 10, "the command's end")


def test_an_identity_ends_with_its_process_and_survives_a_change_of_the_clock(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_identity(process.pid)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert is_process_alive(name)
    process.kill()
    wait_for(lambda: not running(process.pid))
    assert not is_process_alive(name), "a process that ended and was not waited for counts as alive"
    process.wait()
    process.stdin.close()
    assert not is_process_alive(name)
    assert is_process_alive("another.host:1:1"), "a process of another host cannot be looked at from here"


@pytest.mark.skipif(sys.platform != "linux", reason="the option hidepid is one of Linux's /proc")
def test_a_process_that_the_system_hides_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    host = process_identity().rsplit(":", 2)[0]
    assert not is_process_alive(f"{host}:{2**22 + 1}:1")

    def not_permitted(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", not_permitted)  # it is another user's, and has no folder in /proc (hidepid=2)
    assert is_process_alive(f"{host}:{2**22 + 1}:1")
    monkeypatch.setattr(Path, "read_bytes", not_permitted)  # it has one, which cannot be read (hidepid=1)
    assert is_process_alive(f"{host}:{os.getpid()}:1")


def test_an_ancestor_that_cannot_be_seen_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    parent = psutil.Process()
    monkeypatch.setattr(guard, "_ancestors", lambda: [parent])
    monkeypatch.setattr(guard, "_is_shell", lambda process: False)
    assert guard.ancestors_to_watch() == [parent]

    def denied() -> str:
        raise psutil.AccessDenied(parent.pid)

    monkeypatch.setattr(parent, "status", denied)  # that of sudo, with hidepid=1
    assert guard.ancestors_to_watch() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the name of a process is in /proc")
def test_a_process_whose_name_is_cut_within_a_letter_has_an_identity(tmp_path):
    script = tmp_path / "train\u4e2d\u4e2d\u4e2d\u4e2d.py"  # the system keeps 15 bytes
    script.write_text(
        f"#!{sys.executable}\nfrom pipelines.runtime.guard import process_identity\nprint(process_identity())\n"
    )
    script.chmod(0o755)
    done = subprocess.run([script], env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.count(":") == 2, done.stderr


def test_whether_a_process_of_another_boot_or_machine_runs_is_not_known() -> None:
    own = global_identity()
    process, _, boot = own.rpartition("@")
    host, _, start = process.rsplit(":", 2)
    assert is_running(own) is True
    assert is_running(f"{host}:999999999:{start}@{boot}") is False
    assert is_running(f"{host}:999999999:{start}@of-a-machine-with-the-same-name") is None
    assert is_running(f"another-name:{os.getpid()}:{start}@{boot}") is None
    assert is_running("") is None
