"""Hosts on one Linux machine that share no files, no processes and no network but a switch.

Each host has namespaces of its own: network (one address on a private subnet), mounts (an overlay: it sees this machine's files
as they were, nobody else sees what it writes; homes, temporary folders and this checkout are empty), host name, processes and
IPC. Killing a host ends everything in it, as pulling the plug does; so does the end of the process that made it. Needs root,
and a kernel that permits namespaces and overlays.
"""

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SERVICES = "services"
"""Name of the place for services. It is a host like the others, with the address that ends in .254."""
_START_SECONDS = 20.0
_PREFIX = "gantry-"
"""Namespaces are named gantry-PROCESS-NUMBER-HOST."""
_FOLDER = "gantry-hosts-"
_NUMBERS = itertools.count()
_HIDDEN = ("/tmp", "/var/tmp", "/root", "/home", "/run/user", str(Path(__file__).parents[2]))
"""Folders that are empty on every host: temporary ones, homes, and this checkout."""
_SHOWN = tuple(dict.fromkeys((sys.base_prefix, sys.prefix)))
"""Folders that every host may read, also inside hidden ones: the interpreter and its packages."""
_INIT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        signal.pause()
"""
"""First process of a host: it adopts and reaps what others leave behind."""


class HostsError(Exception):
    """This machine does not permit hosts, or one of them did not start."""


class Host:
    """A host that runs. Its processes are started by :meth:`start` and :meth:`run`."""

    def __init__(self, name: str, namespace: str, address: str, folder: Path) -> None:
        self.name, self.address, self._namespace = name, address, namespace
        script = _setup_script(folder)
        self._init = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig=KILL", "ip", "netns", "exec", namespace),
                *(
                    "unshare",
                    "--mount",
                    "--uts",
                    "--ipc",
                    "--pid",
                    "--fork",
                    "--kill-child=KILL",
                    "--propagation=private",
                ),
                *("bash", "-c", script, name, sys.executable, _INIT),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._init.stdout
        if (first := self._init.stdout.readline()).strip() != "ready":
            self._init.kill()
            raise HostsError(f"Host {name} did not start: {(first + self._init.stdout.read()).strip()}")
        self._first = _child_of(self._init.pid)

    @property
    def alive(self) -> bool:
        """Whether it has not been killed."""
        return self._init.poll() is None

    @property
    def entry(self) -> str:
        """Command of this machine's shell that opens a shell in this host."""
        return f"nsenter --target={self._first} --all --root --wd bash"

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a command in this host and return at once.

        Args:
            command: program and arguments.
            cwd: working directory, as this host sees it.
            environment: all of its variables but PATH and HOME.
            log: file on this machine for its output; by default a pipe.
        """
        inside = f"cd {shlex.quote(cwd)} && exec {shlex.join(command)}"
        variables = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})}
        output = log.open("ab") if log else subprocess.PIPE
        try:
            return subprocess.Popen(
                ["nsenter", f"--target={self._first}", "--all", "--root", "--wd", "sh", "-c", inside],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                text=True,
                start_new_session=True,
            )
        finally:
            if log:
                output.close()  # type: ignore[union-attr]

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: str = "/",
        environment: Mapping[str, str] | None = None,
        timeout: float = 120,
        check: bool = True,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in this host to its end; its output is in ``stdout``."""
        process = self.start(command, cwd=cwd, environment=environment)
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if check and process.returncode:
            raise HostsError(f"{shlex.join(command)} on {self.name} gave {process.returncode}:\n{output[-4000:]}")
        return subprocess.CompletedProcess(list(command), process.returncode, output, "")

    @property
    def enter(self) -> str:
        """Beginning of a command line that runs a program in this host."""
        return f"nsenter --target={self._first} --all --root --wd"

    def files(self, path: str) -> Path:
        """Where this machine sees the file ``path`` of this host."""
        return Path(f"/proc/{self._first}/root") / path.lstrip("/")

    def cut(self) -> None:
        """Cut the host off from the others; its own loopback stays."""
        _ip("-n", self._namespace, "link", "set", "eth0", "down")

    def heal(self) -> None:
        """Connect it again."""
        _ip("-n", self._namespace, "link", "set", "eth0", "up")

    def kill(self) -> None:
        """Kill every process of the host at once."""
        with suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        self._init.kill()
        self._init.wait()


@contextmanager
def hosts(names: Sequence[str], subnet: str = "10.77.0", *, reachable: bool = False) -> Iterator[dict[str, Host]]:
    """Hosts with these names, and one for services, for the length of the block.

    Args:
        names: at most 250. Host number i has the address ``subnet``.i.
        subnet: first three numbers of a private network that this machine does not use.
        reachable: whether this machine reaches the hosts, by the address ``subnet``.253 of its own.

    Yields:
        The hosts by name.

    Raises:
        HostsError: this machine does not permit namespaces, or they are in use.
    """
    check_machine()
    _remove_abandoned()
    tag = f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
    switch = f"{tag}-switch"
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.getpid()}-", ignore_cleanup_errors=True)
            )
        )
        _add_namespace(stack, switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        if reachable:
            _connect_machine(stack, switch, f"{subnet}.253/24")
        made: dict[str, Host] = {}
        numbers = {name: number for number, name in enumerate(names, 1)} | {SERVICES: 254}
        for name, number in numbers.items():
            namespace, address = f"{tag}-{name}", f"{subnet}.{number}"
            _add_namespace(stack, namespace)
            _ip(
                "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", "name", f"p{number}", "netns", switch
            )
            _ip("-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
            _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                _ip("-n", namespace, "link", "set", link, "up")
            (folder / name).mkdir()
            table = "".join(f"{subnet}.{other} {host}\n" for host, other in numbers.items())
            (folder / f"{name}.hosts").write_text(f"127.0.0.1 localhost\n{table}")
            made[name] = Host(name, namespace, address, folder / name)
            stack.callback(made[name].kill)
        yield made


def check_machine() -> None:
    """Raise HostsError unless this machine permits hosts; says what is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise HostsError("Hosts need Linux and root: run this as root, in a container with --privileged for example.")
    for program in ("ip", "unshare", "nsenter", "setpriv"):
        if not shutil.which(program):
            package = "iproute2" if program == "ip" else "util-linux"
            raise HostsError(f"Hosts need the program '{program}': install the package {package}.")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise HostsError(f"This machine does not permit namespaces: {tried.stderr.strip()}.")


def _setup_script(folder: Path) -> str:
    hidden, shown = (" ".join(map(shlex.quote, paths)) for paths in (_HIDDEN, _SHOWN))
    base = shlex.quote(str(folder))
    return f"""
set -eu
hostname "$0"
mount -t tmpfs -o size=8g tmpfs {base}
mkdir -p {base}/upper {base}/work {base}/root
mount -t overlay overlay -o lowerdir=/,upperdir={base}/upper,workdir={base}/work {base}/root
cd {base}/root
cp {shlex.quote(f"{folder}.hosts")} etc/hosts
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o size=3g tmpfs dev/shm
for place in {hidden}; do
  if [ -d ".$place" ]; then mount -t tmpfs -o size=4g,mode=1777 tmpfs ".$place"; fi
done
for place in {shown}; do
  mkdir -p ".$place"
  mount --bind "$place" ".$place"
  mount -o remount,bind,ro ".$place"
done
exec chroot . "$1" -c "$2"
"""


def _add_namespace(stack: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    stack.callback(lambda: subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False))


def _connect_machine(stack: ExitStack, switch: str, address: str) -> None:
    """Connect this machine to the switch. The link ends with the switch."""
    link = f"gantry{os.getpid() % 10**8}"  # at most 15 characters
    _ip("link", "add", link, "type", "veth", "peer", "name", "machine", "netns", switch)
    stack.callback(lambda: subprocess.run(["ip", "link", "del", link], capture_output=True, check=False))
    _ip("addr", "add", address, "dev", link)
    _ip("link", "set", link, "up")
    _ip("-n", switch, "link", "set", "machine", "master", "br0", "up")


def _remove_abandoned() -> None:
    """Remove the namespaces and folders of processes that were killed; the hosts in them have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        if not Path(f"/proc/{folder.name.removeprefix(_FOLDER).partition('-')[0]}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        owner = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostsError(f"ip {shlex.join(words)}: {done.stderr.strip()}")


def _child_of(process: int) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise HostsError(f"Process {process} has started nothing.")
