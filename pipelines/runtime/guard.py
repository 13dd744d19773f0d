"""End a process, and all processes that it started, when its parent ends.

Killing ``dvc repro`` does not stop the stage that it runs, and Ray's agents outlive a killed driver for minutes. Therefore long
work runs under a *guard*: a small process between the work and its parent that does three things.

- It adopts every orphan among its descendants (Linux's child subreaper), so no process escapes by outliving its parent.
- It watches its ancestors, up to the ``dvc`` that started it. When one of them ends, it ends all its descendants.
- It forwards SIGTERM, SIGINT and SIGHUP. When its child ends, for whatever reason, it ends the remaining descendants.

If the guard itself is killed, the work notices it, and ends itself and what it started. On systems without these Linux calls,
the guard still watches, and still ends every descendant that it can see.
"""

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

LOG = logging.getLogger(__name__)

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"})
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WATCH_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def process_identity(pid: int | None = None) -> str:
    """``host:pid:start`` of a process (default: this one). Unlike the pid alone, it is never used again for another process.

    Raises:
        psutil.NoSuchProcess: no process has this pid.
    """
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}:{pid}:{_start(pid)}"


def is_process_alive(identity: str) -> bool:
    """Whether the process with this :func:`process_identity` still runs.

    One on another host is taken to be alive, and so is one that the system hides because it is another user's (hidepid).
    """
    host, pid, start = identity.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return _start(int(pid)) == start and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def global_identity() -> str:
    """:func:`process_identity` of this process with the boot of its machine, for processes on other machines to read."""
    return f"{process_identity()}@{_boot()}"


def is_running(identity: str) -> bool | None:
    """Whether the process with this :func:`global_identity` runs; None if that cannot be told from here.

    Machines may share a name, and containers a boot, so it can be told only of processes of this host, boot and namespace.
    """
    process, _, boot = identity.rpartition("@")
    if boot != _boot() or not process.startswith(f"{socket.gethostname()}:"):
        return None
    return is_process_alive(process)


def _boot() -> str:
    """Names this boot of the machine and this namespace of process ids."""
    try:
        return f"{read_boot()}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # another system: hosts are told apart by their names
        return socket.gethostname()


def read_boot() -> str:
    """Names this boot of the machine, the same for all of its containers.

    Raises:
        OSError: the system does not name it. Only Linux does.
    """
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start(pid: int) -> str:
    """The start time of a process, in a form that does not change when the clock is set.

    Raises:
        psutil.NoSuchProcess: there is no such process.
        psutil.AccessDenied: the system hides it.
    """
    if sys.platform != "linux":
        return str(round(psutil.Process(pid).create_time()))
    try:
        # Field 22. The program's name, in parentheses, may contain anything, so fields are counted from its end. It is cut
        # after 15 bytes, perhaps within a letter.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except PermissionError:  # /proc is mounted with hidepid=1
        raise psutil.AccessDenied(pid) from None
    except (FileNotFoundError, ProcessLookupError):
        if _is_hidden(pid):
            raise psutil.AccessDenied(pid) from None
        raise psutil.NoSuchProcess(pid) from None


def _is_hidden(pid: int) -> bool:
    """Whether a process that has no folder in /proc exists: with hidepid=2, those of other users have none."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # one of this user, which has ended meanwhile


def dvc_ancestor() -> psutil.Process | None:
    """The ``dvc`` process that runs this one as a stage's command, or None if DVC did not start it."""
    if "DVC_STAGE" in os.environ:
        for process in _ancestors():
            with contextlib.suppress(psutil.Error):
                if any(Path(word).name == "dvc" for word in process.cmdline()[:4]):
                    return process
    return None


def ancestors_to_watch() -> list[psutil.Process]:
    """The ancestors whose end must end this process.

    For a process that DVC runs: all from the parent up to ``dvc``. Otherwise: the parent, unless it is a shell. (A command
    started with ``nohup`` may outlive its shell, and closing a terminal sends SIGHUP.)
    """
    ancestors = _ancestors()
    if "DVC_STAGE" not in os.environ:
        chain = [process for process in ancestors[:1] if not _is_shell(process)]
    elif (dvc := dvc_ancestor()) is not None:
        chain = ancestors[: ancestors.index(dvc) + 1]
    else:
        # DVC's Python API was used, so no process is called dvc: take the first ancestor that is not a shell.
        above = next((index for index, process in enumerate(ancestors) if not _is_shell(process)), -1)
        chain = ancestors[: above + 1]
    # Process 1 of a container or a machine never ends before the others.
    return [process for process in chain if process.pid != 1 and _is_visible(process)]


def _ancestors() -> list[psutil.Process]:
    try:
        return psutil.Process().parents()
    except psutil.NoSuchProcess:
        return []


def _is_visible(process: psutil.Process) -> bool:
    """Whether this process can see when ``process`` ends. With hidepid=1, sudo's own process, of root, cannot be watched."""
    try:
        process.status()
    except psutil.AccessDenied:
        return False
    except psutil.NoSuchProcess:  # it has just ended
        return True
    return True


def _is_shell(process: psutil.Process) -> bool:
    try:
        return process.name() in SHELLS
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    """Whether ``process`` runs. A zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, such as a child that sudo started
        return True


def enter_guard(watched: Sequence[psutil.Process] | None = None, *, grace: float = 6.0) -> None:
    """Fork: the caller continues in the child, and the parent becomes its guard and never returns.

    Call it early, while the process has one thread. The guard exits with the child's status (128 + n for signal n).

    Args:
        watched: the work ends when one of these processes ends. Default: :func:`ancestors_to_watch`.
        grace: seconds between asking the work to end and killing it.
    """
    watched = ancestors_to_watch() if watched is None else watched
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        LOG.warning("The process forks with %d threads running; only one continues.", threading.active_count())
    guard = os.getpid()
    mask = _split(watched, grace)
    _stop_once()
    # The work adopts orphans as well, so that it can end them if the guard is killed.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    atexit.register(_end_orphaned, guard)
    threading.Thread(target=_end_without, args=(guard, grace), name="guard-watch", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _split(watched: Sequence[psutil.Process], grace: float) -> set[int]:
    """Fork. The parent guards and never returns; the child returns the earlier signal mask, with signals still blocked."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGCHLD))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        _guard(child, watched, grace)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return {int(number) for number in mask}


def guarded_command(command: Sequence[str], *, grace: float = 12.0) -> list[str]:
    """The command line that runs ``command`` under a guard. The guard watches the calling process (not the thread)."""
    return [sys.executable, "-m", __name__, str(os.getpid()), str(grace), *command]


def end_descendants(*, first: int | None = None, grace: float = 0.0) -> None:
    """End all descendants of this process: SIGTERM, and SIGKILL for those that still run 2 s later.

    Args:
        first: a child that gets SIGTERM before the others, so that it can end its own descendants.
        grace: seconds to wait for that before the others get SIGTERM.
    """
    if first is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGTERM)
        if _wait_for_none(grace):
            return
    for stop, seconds, times in ((signal.SIGTERM, 2.0, 1), (signal.SIGKILL, 0.3, 20)):
        for _ in range(times):
            for process in _below():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.send_signal(stop)
            if _wait_for_none(seconds):
                return


def _below() -> list[psutil.Process]:
    """The living descendants of this process."""
    return [process for process in psutil.Process().children(recursive=True) if _alive(process)]


def _wait_for_none(seconds: float) -> bool:
    """Wait at most ``seconds`` until this process has no living descendants; return whether it has none."""
    deadline = time.monotonic() + seconds
    while True:
        _reap()
        if not _below():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _reap() -> dict[int, int]:
    """Wait for all children that have ended, adopted ones too; returns their wait status by pid."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def _guard(child: int, watched: Sequence[psutil.Process], grace: float) -> None:
    """Wait until ``child`` ends, a signal arrives, or one of ``watched`` ends. Never returns."""
    # A signal that is ignored, such as SIGHUP under nohup, stays ignored.
    stops = {stop for stop in STOP_SIGNALS if signal.getsignal(stop) != signal.SIG_IGN}
    code = 128 + signal.SIGTERM
    while True:
        received = signal.sigtimedwait((*stops, signal.SIGCHLD), WATCH_SECONDS)
        ended = _reap()
        if child in ended:
            status = os.waitstatus_to_exitcode(ended[child])
            code = status if status >= 0 else 128 - status
            end_descendants()
            break
        if received is not None and received.si_signo in stops:
            code = 128 + received.si_signo
            if received.si_signo == signal.SIGINT:
                # SIGINT stays SIGINT. Ctrl-C in a terminal also reaches the child directly, which ignores the second one.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGINT)
                if _wait_for_none(grace):
                    break
            end_descendants(first=child, grace=grace)
            break
        if not all(_alive(process) for process in watched):
            end_descendants(first=child, grace=grace)
            break
    os._exit(code)


def _end_orphaned(guard: int) -> None:
    """At the exit of the guarded process: end its descendants if the guard was killed."""
    if os.getppid() != guard:
        end_descendants()


def _end_without(guard: int, grace: float) -> None:
    """In a thread of the guarded process: end it and its descendants ``grace`` seconds after its guard was killed."""
    while os.getppid() == guard:
        time.sleep(WATCH_SECONDS)
    # The kernel has sent SIGTERM, but a main thread in native code may not handle it.
    time.sleep(grace)
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def _stop_once() -> None:
    """Make the first signal of :data:`STOP_SIGNALS` raise SystemExit in the main thread, so that ``finally`` blocks run.

    If it arrives while Python runs a finaliser or a callback, which passes no exception on, it is sent again.
    """
    received, report = 0, sys.unraisablehook

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if not received:
            received = number
            raise SystemExit(128 + number)

    def send_again(ignored: Any) -> None:
        nonlocal received
        if not received or not isinstance(ignored.exc_value, SystemExit):
            report(ignored)
            return
        # A little later: sent from here, it would be ignored again.
        again = threading.Timer(0.05, os.kill, (os.getpid(), received))
        again.daemon, received = True, 0
        again.start()

    sys.unraisablehook = send_again
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def ignore_stop_signals() -> None:
    """Ignore :data:`STOP_SIGNALS` from now on: the work is done, and only Python's own shutdown is left.

    An exception of a signal handler in that shutdown would print a traceback and end nothing. The guard can still kill.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


_succeeded: list[str] = []


def mark_succeeded(stage: str) -> None:
    """Note that this process has run ``stage`` to its end and its results are in place."""
    _succeeded.append(stage)


def has_succeeded() -> bool:
    """Whether this process has run a stage to its end. An error after that, for example of Ray, does not fail the stage."""
    return bool(_succeeded)


def _prctl(option: int, value: int) -> None:
    """Set a property of this process (prctl) on Linux; do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> None:
    """``python -m pipelines.runtime.guard PARENT GRACE COMMAND...``: run COMMAND under a guard that watches process PARENT."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    mask = _split([psutil.Process(parent)], grace)
    # Python ignores SIGPIPE; the command must not inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
