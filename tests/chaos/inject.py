"""The fault injector: counts the file, process and network operations of a process and makes one of them fail.

It counts, below given folders, files opened for writing, renames, links, new folders and removals; HTTP requests and
responses; and process starts. Python reports nearly all of them through audit hooks, so the program itself is not changed. Only
partial writes and responses need a wrapper. Code that writes files outside Python (safetensors, Arrow, SQLite) cannot be
reached this way; :mod:`tests.chaos.case_disk` covers it with a small, full file system.

The environment variable GANTRY_CHAOS holds a :class:`Plan` as JSON, or ``@`` and the path of a file with it. If the folder
``preload`` is on PYTHONPATH, every Python process installs the plan at its start; a forked process calls :func:`install`. This
module imports only the standard library.
"""

import errno
import http.client
import importlib.abc
import importlib.machinery
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "GANTRY_CHAOS"
WRITES = frozenset({"write", "append", "rename", "link", "mkdir"})
CALLS = frozenset({"send", "answer"})
_DAY = 86400.0
_HOLD_SECONDS = 120.0
# Parts of names that differ between runs: keys, process ids, random parts of temporary names.
_RANDOM = re.compile(
    r"(?<=gantry-model-)\w{8}|(?<=\.gantry-)\w{8}|(?<=parts-)\w{8}|(?<=tmp)\w{8}|(?<=uploading\.)\w{8}|[0-9a-f]{8,}|\d{4,}"
    r"|(?<=/code/)gan_core/.+"  # a copy of the code: all files count as one
)
_NOT_OURS = ("__pycache__", "var/ray/", "/.git/", ".pyc")


@dataclass(frozen=True, order=True)
class Point:
    """One moment of a run: the ``nth`` time (from 1) that a process does ``kind`` at ``place``."""

    kind: str
    place: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.place} #{self.nth}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to watch, and what to do at which moment."""

    log: str
    """The log file, with a line for each moment."""
    roots: tuple[str, ...]
    """Folders whose files count. Places are relative to the first folder that contains them."""
    point: Point | None = None
    """The moment at which to act; None to only count."""
    action: str = "kill"
    """What to do at that moment.

    - ``kill``: SIGKILL to this process; ``kill-guard``: to its parent;
    - ``tear``: SIGKILL after half of the data is written;
    - ``full``: the disk is full; ``fill``: it is full after half of the data is written;
    - ``interrupt``, ``terminate``: SIGINT or SIGTERM to the process group, as from a terminal;
    - ``clock``: the clock is set back by a day;
    - ``drop``: the connection breaks;
    - ``hold``: the process waits until :func:`release` (at most two minutes), so that something else can be broken meanwhile.
    """

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        values = json.loads(text)
        point = Point(**values["point"]) if values["point"] else None
        return cls(**{**values, "roots": tuple(values["roots"]), "point": point})


def read_points(log: Path) -> list[Point]:
    """The moments in ``log``, sorted, each once. Each process counts for itself: equal moments of two processes are one."""
    seen: Counter[tuple[str, str, str]] = Counter()
    points = set()
    for pid, kind, place in _lines(log):
        if kind != "FIRED":
            seen[pid, kind, place] += 1
            points.add(Point(kind, place, seen[pid, kind, place]))
    return sorted(points)


def fired(log: Path) -> bool:
    """Whether the injector has acted."""
    return any(kind == "FIRED" for _, kind, _ in _lines(log))


def release(log: Path) -> None:
    """Let a paused process continue."""
    Path(f"{log}.go").touch()


def _lines(log: Path) -> list[tuple[str, str, str]]:
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [(pid, kind, place) for pid, kind, place in (line.split("\t", 2) for line in text.splitlines())]


class Injector:
    """Counts the moments of this process and acts at the planned one, once among all processes that share the log."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts: Counter[tuple[str, str]] = Counter()
        self._mutex = threading.Lock()
        self._here = threading.local()
        self._descriptors: dict[int, str] = {}
        self._roots = [os.path.realpath(root) + os.sep for root in plan.roots]
        self._log = os.open(plan.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open, self._os_open, self._os_write = io.open, os.open, os.write
        self._pid = os.getpid()

    def install(self) -> None:
        """Start watching this process, until it ends."""
        import builtins

        builtins.open = io.open = self._open_file  # type: ignore[assignment]
        os.open, os.write = self._open_descriptor, self._write  # type: ignore[assignment]
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]  # the kernel's copy could not be torn
        self._wrap_answers()
        _after_import("httpx", self._wrap_httpx)
        sys.addaudithook(self._hook)

    def _hook(self, name: str, args: tuple[Any, ...]) -> None:
        handler = _EVENTS.get(name)
        if handler is None or getattr(self._here, "busy", False):
            return
        self._here.busy = True
        try:
            event = handler(self, args)
        finally:
            self._here.busy = False
        if event is not None:
            self._moment(*event)

    def _moment(self, kind: str, place: str) -> None:
        """Count a moment; act if it is the planned one."""
        with self._mutex:
            if self._pid != os.getpid():  # a fork counts for itself
                self._pid, self._counts = os.getpid(), Counter()
            self._counts[kind, place] += 1
            nth = self._counts[kind, place]
            self._note(kind, place)
        if self._plan.point == Point(kind, place, nth) and self._first():
            if self._plan.action not in ("tear", "fill"):  # these act when something is written, which may never be
                self._note("FIRED", f"{place} #{nth}")
            self._act(place)

    def _note(self, kind: str, place: str) -> None:
        self._os_write(self._log, f"{os.getpid()}\t{kind}\t{place}\n".encode())

    def _first(self) -> bool:
        """Whether no process has acted yet."""
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._here.busy = True
            os.close(self._os_open(f"{self._plan.log}.fired", flags, 0o600))
        except FileExistsError:
            return False
        finally:
            self._here.busy = False
        return True

    def _act(self, place: str) -> None:
        action = self._plan.action
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "kill-guard":
            os.kill(os.getppid(), signal.SIGKILL)
        elif action in ("interrupt", "terminate"):
            os.killpg(os.getpgid(0), signal.SIGINT if action == "interrupt" else signal.SIGTERM)
        elif action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
        elif action in ("tear", "fill"):
            self._here.tear = True  # read by the wrapper of the current call
        elif action == "clock":
            set_clock_back(_DAY)
        elif action == "hold":
            deadline = time.monotonic() + _HOLD_SECONDS
            while not os.path.exists(f"{self._plan.log}.go") and time.monotonic() < deadline:
                time.sleep(0.05)
        else:
            raise ValueError(f"unknown action {action!r}")

    def _place(self, path: Any) -> str | None:
        """The place of a path below the roots, with random parts replaced; None for other paths."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.path.abspath(os.fsdecode(path))
        parent, name = os.path.split(text)
        text = os.path.join(os.path.realpath(parent), name)
        for index, root in enumerate(self._roots):
            if text.startswith(root):
                text = text.removeprefix(root)
                if any(part in f"/{text}" for part in _NOT_OURS):
                    return None
                return _RANDOM.sub("*", text if index == 0 else f"{Path(root).name}:{text}")
        return None

    # The kind and place of each of Python's audit events.

    def _file_opened(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        path, mode, flags = args
        writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
        place = self._place(path) if writes else None
        return ("write", place) if place else None

    def _renamed(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        place = self._place(args[1])
        return ("rename", place) if place else None

    def _linked(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        place = self._place(args[1])
        return ("link", place) if place else None

    def _made(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        place = self._place(args[0])
        return ("mkdir", place) if place else None

    def _removed(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        # Removing a folder names files relative to descriptors; only those with a path count.
        place = self._place(args[0]) if args[-1] in (-1, None) else None
        return ("remove", place) if place else None

    def _started(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        words = [os.fsdecode(word) for word in args[1]] if isinstance(args[1], Sequence) else [str(args[1])]
        short = [Path(word).name for word in words if not word.startswith("-")][:3]
        return "start", _RANDOM.sub("*", " ".join(short))

    def _sent(self, args: tuple[Any, ...]) -> tuple[str, str] | None:
        data = args[1]
        first = bytes(data[:300]).split(b"\r\n")[0] if isinstance(data, bytes | bytearray) else b""
        if not re.match(rb"[A-Z]+ /", first):
            return None  # the body of a request
        self._here.request = _request(first.decode("latin-1").removesuffix(" HTTP/1.1"))
        return "send", self._here.request

    # Operations without an audit event.

    def _open_file(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        self._here.tear = False
        opened = self._open(file, mode, *args, **options)
        if not getattr(self._here, "tear", False):
            return opened
        self._here.tear = False
        raw = _TornFile(opened.name if isinstance(file, int) else file, mode.replace("x", "w").replace("t", ""), self)
        opened.close()
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=options.get("encoding"), newline="")

    def _open_descriptor(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = self._os_open(path, flags, mode, dir_fd=dir_fd)
        self._descriptors.pop(descriptor, None)  # a closed descriptor had the same number
        place = self._place(path) if dir_fd is None and flags & (os.O_WRONLY | os.O_RDWR) else None
        if place is not None:
            self._descriptors[descriptor] = place
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        place = self._descriptors.get(descriptor)
        if place is None:
            return self._os_write(descriptor, data)
        self._here.tear = False
        self._moment("append", place)
        if not self._here.tear:
            return self._os_write(descriptor, data)
        self._here.tear = False
        self._os_write(descriptor, bytes(data)[: len(data) // 2])
        return self.break_off(len(data))

    def break_off(self, written: int) -> int:
        """Called when half of the data is written: kill the process, or report a full disk."""
        self._note("FIRED", str(self._plan.point))
        if self._plan.action == "tear":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _wrap_answers(self) -> None:
        original = http.client.HTTPConnection.getresponse

        def getresponse(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
            answer = original(connection)
            self._moment("answer", getattr(self._here, "request", "?"))
            return answer

        http.client.HTTPConnection.getresponse = getresponse  # type: ignore[method-assign]

    def _wrap_httpx(self, httpx: ModuleType) -> None:
        send, send_async = httpx.Client.send, httpx.AsyncClient.send

        def sent(client: Any, request: Any, **options: Any) -> Any:
            place = _request(f"{request.method} {request.url.path}")
            self._moment("send", place)
            answer = send(client, request, **options)
            self._moment("answer", place)
            return answer

        async def sent_async(client: Any, request: Any, **options: Any) -> Any:
            place = _request(f"{request.method} {request.url.path}")
            self._moment("send", place)
            answer = await send_async(client, request, **options)
            self._moment("answer", place)
            return answer

        httpx.Client.send, httpx.AsyncClient.send = sent, sent_async  # type: ignore[attr-defined]


def _request(text: str) -> str:
    """Method and path of a request, without its query and random parts."""
    return _RANDOM.sub("*", text.partition("?")[0])


class _TornFile(io.FileIO):
    """A file that accepts only half of the first write."""

    def __init__(self, file: Any, mode: str, injector: Injector) -> None:
        super().__init__(file, mode.replace("b", ""))
        self._injector = injector
        self._full = False

    def write(self, data: Any) -> int:
        content = bytes(data)
        if not self._full:  # a buffer writes again when it is closed
            self._full = True
            super().write(content[: len(content) // 2])
        return self._injector.break_off(len(content))


_EVENTS: dict[str, Callable[[Injector, tuple[Any, ...]], tuple[str, str] | None]] = {
    "open": Injector._file_opened,
    "os.rename": Injector._renamed,
    "os.link": Injector._linked,
    "os.mkdir": Injector._made,
    "os.remove": Injector._removed,
    "os.rmdir": Injector._removed,
    "subprocess.Popen": Injector._started,
    "os.fork": lambda self, args: ("start", "fork"),
    "http.client.send": Injector._sent,
}
"""For each audit event, the function that turns its arguments into kind and place of a moment, or None."""


def set_clock_back(seconds: float) -> None:
    """Set the clock of this process back by ``seconds``; the monotonic clock is not changed."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - seconds
    time.time_ns = lambda: now_ns() - int(seconds * 1e9)


def planned(variable: str) -> Plan:
    """The plan in the value of GANTRY_CHAOS, which is JSON or @FILE."""
    return Plan.from_json(Path(variable[1:]).read_text(encoding="utf-8") if variable.startswith("@") else variable)


def install(plan: Plan) -> None:
    """Start watching this process."""
    Injector(plan).install()


def _after_import(name: str, patch: Callable[[ModuleType], None]) -> None:
    """Call ``patch`` with the module ``name``: now if it is imported, otherwise after its import."""
    if name in sys.modules:
        patch(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Later(name, patch))


class _Later(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, patch: Callable[[ModuleType], None]) -> None:
        self._name, self._patch = name, patch

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
