"""Processes that end with the one that started them, and leave nothing behind.

Killing ``dvc repro`` does not stop the stage that it runs, and Ray's agents outlive a killed driver for minutes. So a
long piece of work runs under a *guard*: a small process between it and its parent that does three things.

- It adopts every orphan below it (Linux's child subreaper), so nothing escapes by outliving its own parent.
- It watches its ancestors, up to the ``dvc`` that started it; when one is gone, it ends everything below.
- It passes on SIGTERM, SIGINT and SIGHUP, and when its child ends for whatever reason, ends what is left.

Should the guard itself be killed, the work notices and ends itself and what it started. On systems without these Linux
calls the guard still watches, and still ends every process that it can see below itself.
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

import psutil

LOG = logging.getLogger(__name__)

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox"})
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
WATCH_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def identity(pid: int | None = None) -> str:
    """``host:pid:start``: a name for a process (this one by default) that no later process with its number shares.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}:{pid}:{_start(pid)}"


def lives(name: str) -> bool:
    """Whether the process called ``name`` by :func:`identity` still runs. One on another host is taken to be alive."""
    host, pid, start = name.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return _start(int(pid)) == start and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _start(pid: int) -> str:
    """The start time of a process in a form that a change of the clock does not alter."""
    if sys.platform != "linux":
        return str(round(psutil.Process(pid).create_time()))
    try:
        # The name of the program, in brackets, may hold anything; field 22 is counted from its end.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None


def dvc_ancestor() -> psutil.Process | None:
    """The ``dvc`` process that runs this one as a stage's command, or None when it was not started by DVC."""
    if "DVC_STAGE" in os.environ:
        for process in _ancestors():
            with contextlib.suppress(psutil.Error):
                if any(Path(word).name == "dvc" for word in process.cmdline()[:4]):
                    return process
    return None


def kin_to_watch() -> list[psutil.Process]:
    """The ancestors without which this process has no reason to live.

    Run by DVC: everything from the parent up to ``dvc``. Otherwise: the parent, unless that is a shell (what a person
    starts with ``nohup`` may outlive the shell; a closed terminal says so with SIGHUP).
    """
    ancestors = _ancestors()
    if "DVC_STAGE" not in os.environ:
        chain = [process for process in ancestors[:1] if not _is_shell(process)]
    elif (dvc := dvc_ancestor()) is not None:
        chain = ancestors[: ancestors.index(dvc) + 1]
    else:
        # DVC's Python API: no process is called dvc, so it is the first one that is not a shell.
        above = next((index for index, process in enumerate(ancestors) if not _is_shell(process)), -1)
        chain = ancestors[: above + 1]
    # The first process of a container or a machine does not die before the rest.
    return [process for process in chain if process.pid != 1]


def _ancestors() -> list[psutil.Process]:
    try:
        return psutil.Process().parents()
    except psutil.NoSuchProcess:
        return []


def _is_shell(process: psutil.Process) -> bool:
    try:
        return process.name() in SHELLS
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    """Whether ``process`` runs; one that has ended and was not waited for counts as gone."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def enter_guard(kin: Sequence[psutil.Process] | None = None, *, grace: float = 6.0) -> None:
    """Split this process: the caller goes on in a child, and the parent becomes its guard and never returns.

    To be called early, while there is one thread. The guard exits with the child's status (128 + n for signal n).

    Args:
        kin: processes to live no longer than; by default :func:`kin_to_watch`.
        grace: seconds between asking the work to end and killing it.
    """
    kin = kin_to_watch() if kin is None else kin
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        LOG.warning("A guard is entered with %d threads running; they stay behind.", threading.active_count())
    guard = os.getpid()
    mask = _split(kin, grace)
    _stop_once()
    # The work adopts orphans as well, so that they are in sight when the guard is killed.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    atexit.register(_end_orphaned, guard)
    threading.Thread(target=_end_without, args=(guard, grace), name="guard-watch", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _split(kin: Sequence[psutil.Process], grace: float) -> set[int]:
    """Fork; guard in the parent (never returns), return the earlier signal mask in the child, with signals blocked."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, signal.SIGCHLD))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        _guard(child, kin, grace)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    return {int(number) for number in mask}


def guarded(command: Sequence[str], *, grace: float = 12.0) -> list[str]:
    """``command`` wrapped to run under a guard that watches the calling process (not its thread)."""
    return [sys.executable, "-m", __name__, str(os.getpid()), str(grace), *command]


def end_descendants(*, first: int | None = None, grace: float = 0.0) -> None:
    """End every process below this one.

    Args:
        first: a child that is asked alone (SIGTERM) and given ``grace`` seconds to end itself and its own.
        grace: seconds before the rest is asked too; 2 s later what is left is killed.
    """
    if first is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGTERM)
        if _wait_for_none(grace):
            return
    for stop, seconds, times in ((signal.SIGTERM, 2.0, 1), (signal.SIGKILL, 0.3, 20)):
        for _ in range(times):
            for process in _below():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(stop)
            if _wait_for_none(seconds):
                return


def _below() -> list[psutil.Process]:
    """Every living process below this one."""
    return [process for process in psutil.Process().children(recursive=True) if _alive(process)]


def _wait_for_none(seconds: float) -> bool:
    """Wait until nothing lives below this process, at most ``seconds``; say whether that is so."""
    deadline = time.monotonic() + seconds
    while True:
        _reap()
        if not _below():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _reap() -> dict[int, int]:
    """Collect ended children, adopted ones too: pid to wait status."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def _guard(child: int, kin: Sequence[psutil.Process], grace: float) -> None:
    """Wait for the end of ``child``, for a signal, or for the end of one of ``kin``; never returns."""
    # nohup's wish is the user's wish.
    stops = {stop for stop in STOPS if signal.getsignal(stop) != signal.SIG_IGN}
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
                # As itself: a terminal's Ctrl-C reaches the child too, and a second SIGINT is ignored there.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGINT)
                if _wait_for_none(grace):
                    break
            end_descendants(first=child, grace=grace)
            break
        if not all(_alive(process) for process in kin):
            end_descendants(first=child, grace=grace)
            break
    os._exit(code)


def _end_orphaned(guard: int) -> None:
    """At the end of the guarded process: do the guard's last duty when the guard was killed."""
    if os.getppid() != guard:
        end_descendants()


def _end_without(guard: int, grace: float) -> None:
    """In the guarded process: end it and what it started, ``grace`` seconds after its guard was killed."""
    while os.getppid() == guard:
        time.sleep(WATCH_SECONDS)
    # The kernel has sent SIGTERM by now; a main thread that is deep in native code may not get to it.
    time.sleep(grace)
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def _stop_once() -> None:
    """Turn the first stopping signal into SystemExit in the main thread, so that ``finally`` blocks run."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            raise SystemExit(128 + number)

    for number in STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def stop_no_more() -> None:
    """Ignore stopping signals from now on: the work is over, and only Python's own end is left.

    What a signal's handler raises in there is printed with a traceback and ends nothing. The guard still kills.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _prctl(option: int, value: int) -> None:
    """Set a property of this process, where the system is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> None:
    """``python -m pipelines.runtime.guard PARENT GRACE COMMAND...``: run COMMAND under a guard, for as long as PARENT."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    mask = _split([psutil.Process(parent)], grace)
    # Python ignores SIGPIPE, which the command would inherit.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()


_ended: list[str] = []
"""The stages that this process has run to their end, with their results in place."""


def has_succeeded() -> bool:
    """Whether this process has run a stage to its end: its results are in place, and nothing after them can fail it."""
    return bool(_ended)
