"""One Ray cluster for a whole pipeline run, started when the first stage asks for it.

Starting Ray takes ten seconds and more, so the flow offers a cluster to its stages (:func:`offer_cluster`): a folder
whose path they find in GANTRY_CLUSTER. A stage that needs Ray (:func:`cluster`) leaves a note there and is told the
address. A run in which no stage needs Ray starts none.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from gan_core.errors import StageError
from gan_core.files import read_json, write_json
from pipelines.stages.alive import guarded
from pipelines.stages.owned import abandoned, claim
from pipelines.stages.work import var_directory

LOG = logging.getLogger(__name__)

START_SECONDS = 300.0
_STARTS = 4
_LARGEST_LOG = 1 << 20
# session_2026-11-23_18-29-08_412881_1234567/sockets/plasma_store.4294967295 and a slash before it
_LONGEST_BELOW = 78
_LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
_KEPT_SESSIONS = 3


@contextmanager
def cluster(*, root: Path | str = ".", num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[str]:
    """Connect this process to a Ray cluster for the length of the block; yields the cluster's address.

    In turn: what this process is connected to already; the one that RAY_ADDRESS names; the one that the flow offers;
    a local one, ended with the block and with this process, however that ends (under a guard).

    Args:
        root: the checkout; a local cluster keeps its logs in its ``var/ray``.
        num_cpus: CPUs of a local cluster; by default all.
        log_to_driver: whether what the workers print appears here.

    Raises:
        StageError: the cluster that was named or offered cannot be reached; says which and what to do.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    address = os.environ.get("RAY_ADDRESS") or _offered()
    try:
        if address:
            ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.WARNING)
        else:
            _start_local(Path(root), num_cpus, log_to_driver)
    except ConnectionError as error:
        remedy = "Start it, or unset RAY_ADDRESS for a local one"
        if not os.environ.get("RAY_ADDRESS"):
            remedy = "It belongs to this run, which starts another where the stage is run again"
        raise StageError(f"The Ray cluster at {address} cannot be reached: {error}. {remedy}.") from error
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@contextmanager
def offer_cluster(root: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Offer a cluster to child processes: yields the variables to add to their environment.

    The cluster is started, in a process of its own, when the first of them asks, and ended with the block. One that
    dies meanwhile is started anew when the next asks.

    Args:
        root: the checkout that the stages run in.
        environment: the environment of the stages, which Ray's workers need as well.
    """
    if environment.get("RAY_ADDRESS"):
        yield {}
        return
    var = var_directory(root, environment)
    with _place(var) as place:
        # A local Ray turns its token on by itself; whoever connects to it has to be told.
        auth = {"RAY_AUTH_MODE": environment.get("RAY_AUTH_MODE", "token")}
        ended = threading.Event()
        keeper = threading.Thread(
            target=_keep,
            args=(root, place, var / "ray.log", {**environment, **auth}, ended),
            name="cluster-keeper",
        )
        keeper.start()
        try:
            yield {"GANTRY_CLUSTER": str(place), **auth}
        finally:
            ended.set()
            keeper.join()


@contextmanager
def _place(var: Path) -> Iterator[Path]:
    """A folder in ``var/cluster`` for the notes of one offer, removed with the block; those of killed runs go first."""
    folder = var / "cluster"
    for old in abandoned(folder):
        shutil.rmtree(old, ignore_errors=True)
    place = folder / f"offer-{uuid.uuid4().hex[:12]}"
    claim(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _keep(root: Path, place: Path, log: Path, environment: dict[str, str], ended: threading.Event) -> None:
    """Start the cluster when a stage asks, again when it has died and another asks, and end it with the offer."""
    answered = None
    while not ended.wait(0.2):
        if (asking := _asking(place)) == answered:
            continue
        LOG.info("Starting a Ray cluster for this run.")
        status = _run_until(ended, root, place, log, environment)
        (place / "address").unlink(missing_ok=True)  # nobody is to be sent to a cluster that is gone
        answered = _asking(place) or asking
        if not ended.is_set():
            note = {"asking": answered, "why": f"it ended with status {status}; its log is {log}"}
            try:
                write_json(place / "failed", note)
            except OSError as error:
                LOG.error("The Ray cluster died: %s. That cannot be noted: %s.", note["why"], error)


def _asking(place: Path) -> str | None:
    """The token of whoever asked last; None when nobody has."""
    with suppress(FileNotFoundError):
        return read_json(place / "wanted")
    return None


def _run_until(ended: threading.Event, root: Path, place: Path, log: Path, environment: dict[str, str]) -> int:
    """Run the process that keeps a cluster until it ends, or is ended with the offer; its status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    small = not log.exists() or log.stat().st_size < _LARGEST_LOG
    with log.open("ab" if small else "wb") as output:  # several runs may write to it
        process = subprocess.Popen(
            guarded([sys.executable, "-m", __name__, str(place), str(root)]),
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while process.poll() is None and not ended.wait(0.2):
            pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait()
    return status


def _offered() -> str | None:
    """Ask for the cluster that the flow offers; its address, or None where no flow offers one."""
    folder = os.environ.get("GANTRY_CLUSTER")
    if not folder or not Path(folder).is_dir():
        return None
    place = Path(folder)
    token = uuid.uuid4().hex
    write_json(place / "wanted", token)
    deadline = time.monotonic() + START_SECONDS
    while not (place / "address").exists():
        if (place / "failed").exists() and (note := read_json(place / "failed"))["asking"] == token:
            raise StageError(f"The Ray cluster of this run did not start: {note['why']}.")
        if time.monotonic() > deadline:
            raise StageError(f"The Ray cluster of this run did not start within {START_SECONDS:.0f} s.")
        time.sleep(0.1)
    return read_json(place / "address")


def _start_local(root: Path, num_cpus: int | None, log_to_driver: bool) -> None:
    """Start Ray on this machine. Ray guards it with a token in the user's home, and keeps its dashboard on loopback."""
    import ray

    # Ray starts its workers at niceness 15: beside anything else that computes, training would stand still.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray tells by a warning that its token authentication is on, which is what we want.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                log_to_driver=log_to_driver,
                logging_level=logging.WARNING,
                _temp_dir=_session_folder(var_directory(root) / "ray"),
            )
            return
        except Exception as error:
            # Ray gives a node half a minute to register, which a busy machine may not make, and says so only in words.
            if "timed out during startup" not in str(error) or attempt == _STARTS:
                raise
            LOG.warning("Ray did not start within its own limit (attempt %d of %d); trying again.", attempt, _STARTS)
            ray.shutdown()


def _session_folder(wanted: Path) -> str | None:
    """``wanted``, freed of old sessions' logs, or None (Ray's own choice) where its path is too long for a socket."""
    if len(os.fsencode(wanted)) + _LONGEST_BELOW > _LONGEST_SOCKET:
        LOG.info("The path %s is too long for Ray's sockets; Ray uses its own folder for temporary files.", wanted)
        return None
    wanted.mkdir(parents=True, exist_ok=True)
    sessions = sorted(path for path in wanted.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for session in sessions[:-_KEPT_SESSIONS]:
        _remove_session(session)
    return str(wanted)


def _remove_session(session: Path) -> None:
    # The name ends with the number of the process that started it.
    owner = session.name.rpartition("_")[2]
    if owner.isdigit() and not psutil.pid_exists(int(owner)):
        shutil.rmtree(session, ignore_errors=True)


def main() -> None:
    """``python -m pipelines.cluster FOLDER CHECKOUT``: keep a local cluster and leave its address in FOLDER."""
    place, root = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ.pop("GANTRY_CLUSTER", None)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with cluster(root=root, log_to_driver=False) as address:
        write_json(place / "address", address)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
