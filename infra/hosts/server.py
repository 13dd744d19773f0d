"""A server on a host: started, waited for, stopped and started again."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from infra.hosts.hosts import Host, HostsError

_START_SECONDS = 180.0


class Server:
    """A server that runs on ``host``."""

    def __init__(
        self,
        name: str,
        host: Host,
        command: Sequence[str],
        *,
        ready: Callable[[], bool],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            name: for messages.
            host: where it runs.
            command: program and arguments. They hold no secret: every process of the host can read them.
            ready: whether it answers.
            log: file on this machine for its output.
            environment: all of its variables but PATH and HOME.
        """
        self.name, self.host, self._command, self._ready, self._log = name, host, command, ready, log
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it, also after :meth:`stop`, and wait until it answers.

        Raises:
            HostsError: it ended, or did not answer in three minutes.
        """
        self._process = self.host.start(self._command, environment=self._environment, log=self._log)
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                raise HostsError(
                    f"{self.name} on host {self.host.name} {'ended' if ended else 'does not answer'}. The end of its log:\n"
                    f"{self._log.read_text(errors='replace')[-4000:]}"
                )
            time.sleep(0.3)

    def stop(self) -> None:
        """Kill it and wait for its end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)


def write_secret(host: Host, path: str, text: str, owner: int = 0) -> None:
    """Write a file on ``host`` that only ``owner`` can read."""
    file = host.files(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    os.chown(file, owner, -1)
    file.write_text(text)


def accepts(host: Host, port: int, address: str = "") -> bool:
    """Whether ``host`` accepts connections on this port of ``address``, by default its own."""
    # bash opens a connection within a millisecond; an interpreter takes a tenth of a second.
    script = f"exec 3<>/dev/tcp/{address or host.address}/{port}"
    return not host.run(["bash", "-c", script], timeout=20, check=False).returncode


def answers(host: Host, port: int, path: str) -> bool:
    """Whether a GET of ``path`` on this port of ``host`` gives status 200 within 10 s."""
    request = f"GET {path} HTTP/1.0\\r\\nHost: {host.address}:{port}\\r\\n\\r\\n"
    script = f"exec 3<>/dev/tcp/{host.address}/{port} && printf '{request}' >&3 && timeout 10 head -n 1 <&3"
    return " 200 " in host.run(["bash", "-c", script], timeout=20, check=False).stdout
