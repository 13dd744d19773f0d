"""Servers for the cases: MLflow, and a proxy in front of it that delays or drops responses."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

START_SECONDS = 120.0


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """An MLflow server on a SQLite file in ``folder`` that can be killed, paused and restarted on the same port."""

    def __init__(self, folder: Path, database: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._port = folder, free_port()
        self._database = database or folder / "mlflow.db"
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the server's main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._database}"]
        command += ["--artifacts-destination", str(self._folder / "served")]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # The job runner is not needed, and importing it takes as long as the server itself.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        log = self._folder / "server.log"
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, f"the MLflow server ended:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"the MLflow server did not start:\n{log.read_text()[-2000:]}"
            time.sleep(0.1)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL to all its processes."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Send SIGSTOP: connections are accepted but not answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _family(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [*first.children(recursive=True), first]


@contextmanager
def mlflow_server(folder: Path, database: Path | None = None) -> Iterator[MlflowServer]:
    """Run an MLflow server for the length of the block."""
    server = MlflowServer(folder, database)
    server.start()
    try:
        yield server
    finally:
        server.resume()
        server.kill()


class Proxy:
    """A proxy that delays each response by ``delay`` seconds, or drops it if ``lose`` is set."""

    def __init__(self, uri: str) -> None:
        self._target = int(uri.rpartition(":")[2])
        self.delay = 0.0
        self.lose = False
        self.lost = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            while content := server.recv(1 << 16):
                time.sleep(self.delay)
                if self.lose:  # the server has executed the request, but the client gets no response
                    self.lost += 1
                    return
                client.sendall(content)

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
