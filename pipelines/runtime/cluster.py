"""One Ray cluster for a whole pipeline run, started when the first stage asks for it.

Starting Ray takes ten seconds and more, so the flow offers a cluster to its stages (:func:`offer_cluster`): a folder
whose path they find in GANTRY_CLUSTER. A stage that needs Ray (:func:`cluster`) leaves a note there and finds
the address beside it. A run in which no stage needs Ray starts none.
"""

import atexit
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gan_core.errors import GantryError, StageError
from gan_core.files import read_json, write_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.guard import guarded, has_succeeded
from pipelines.runtime.local_ray import (
    LOOPBACK,
    Watch,
    core_processes,
    new_token,
    private_environment,
    private_ray,
    session_folder,
)
from pipelines.runtime.owned import abandoned, claim
from pipelines.runtime.redaction import redact_output

LOG = logging.getLogger(__name__)

START_SECONDS = 300.0
_STARTS = 2
_LARGEST_LOG = 1 << 20
_RESUMES = "What was done is kept: run the stage again, and it resumes where it stopped."


@contextmanager
def cluster(checkout: Checkout, *, num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[str]:
    """Connect this process to a Ray cluster for the length of the block; yields the cluster's address.

    In turn: what this process is connected to already; the one that RAY_ADDRESS names; the one that the flow offers;
    a local one, ended with the block and with this process, however that ends (under a guard).

    Args:
        checkout: a local cluster keeps its logs there (:attr:`Checkout.ray`).
        num_cpus: CPUs of a local cluster; by default all.
        log_to_driver: whether what the workers print appears here.

    Raises:
        StageError: the cluster that was named or offered cannot be reached, a local one did not start, or what the block
            needs of it died; says which and what to do.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    named = os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        if named:
            processes = _connect(
                named, log_to_driver, "Start it, check RAY_AUTH_TOKEN, or unset RAY_ADDRESS for a local one"
            )
        elif offer := _offered():
            stack.enter_context(private_ray(os.environ["RAY_AUTH_TOKEN"]))
            remedy = "It belongs to this run, which starts another where the stage is run again"
            processes = _connect(offer["address"], log_to_driver, remedy, offer["processes"])
        else:
            processes = stack.enter_context(_local(checkout, num_cpus, log_to_driver, new_token()))
        watch = Watch(processes)
        try:
            with watch:
                yield ray.get_runtime_context().gcs_address
        except (KeyboardInterrupt, Exception) as error:
            if (explained := _explained(error, watch.look())) is None:
                raise
            raise explained from error
        finally:
            if watch.look():
                atexit.unregister(ray._private.worker.shutdown)
                atexit.register(_end_at_once)
            else:
                ray.shutdown()


def _end_at_once() -> None:
    """End a process that was connected to a cluster that died: Ray's own end waits for the dead, and crashes (signal 11).

    A stage whose results are in place has succeeded, whatever died after them.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if has_succeeded() else 1)


def _explained(error: BaseException, died: str | None) -> StageError | None:
    """Where the reason of ``error`` is that something of Ray died, a StageError that says so; else None."""
    import ray

    if died:
        reason = "The system's log (dmesg) says whether it was for want of memory."
        return StageError(f"The Ray cluster of this run died: its {died} is gone. {reason} {_RESUMES}")
    if isinstance(error, ray.exceptions.RayError) and not isinstance(error, (GantryError, ray.exceptions.RayTaskError)):
        return StageError(f"A process of the Ray cluster died ({first_line(error)}). {_RESUMES}")
    return None


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, without its full stop; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _connect(
    address: str, log_to_driver: bool, remedy: str, processes: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """Connect to a cluster; gives ``processes``, which to watch."""
    import ray

    try:
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.WARNING)
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise StageError(f"The Ray cluster at {address} cannot be reached: {first_line(error)}. {remedy}.") from error
    return processes or {}


@contextmanager
def offer_cluster(checkout: Checkout, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Offer a cluster to child processes: yields the variables to add to their environment.

    The cluster is started, in a process of its own, when the first of them asks, and ended with the block. One that
    dies meanwhile is started anew when the next asks.

    Args:
        checkout: where the stages run.
        environment: the environment of the stages, which Ray's workers need as well.
    """
    if environment.get("RAY_ADDRESS"):
        yield {}
        return
    with _place(checkout.cluster_offers) as place:
        # A token of its own: with it a stage comes in, and nobody else does.
        private = private_environment(new_token())
        ended = threading.Event()
        keeper = threading.Thread(
            target=_keep,
            args=(checkout, place, {**environment, **private}, ended),
            name="cluster-keeper",
        )
        keeper.start()
        try:
            yield {"GANTRY_CLUSTER": str(place), **private}
        finally:
            ended.set()
            keeper.join()


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """A folder in ``folder`` for the notes of one offer, removed with the block; those of killed runs go first."""
    for old in abandoned(folder):
        shutil.rmtree(old, ignore_errors=True)
    place = folder / f"offer-{uuid.uuid4().hex[:12]}"
    claim(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _keep(checkout: Checkout, place: Path, environment: dict[str, str], ended: threading.Event) -> None:
    """Start the cluster when a stage asks, again when it has died and another asks, and end it with the offer."""
    answered = None
    while not ended.wait(0.2):
        if (asking := _asking(place)) == answered:
            continue
        LOG.info("Starting a Ray cluster for this run.")
        status = _run_until(ended, checkout, place, environment)
        (place / "address").unlink(missing_ok=True)  # nobody is to be sent to a cluster that is gone
        answered = _asking(place) or asking
        if not ended.is_set():
            note = {"asking": answered, "why": f"it ended with status {status}; its log is {checkout.ray_log}"}
            try:
                write_json(place / "failed", note)
            except OSError as error:
                LOG.error("The Ray cluster died: %s. That cannot be noted: %s.", note["why"], error)


def _asking(place: Path) -> str | None:
    """The token of whoever asked last; None when nobody has."""
    with suppress(FileNotFoundError):
        return read_json(place / "wanted")
    return None


def _run_until(ended: threading.Event, checkout: Checkout, place: Path, environment: dict[str, str]) -> int:
    """Run the process that keeps a cluster until it ends, or is ended with the offer; its status."""
    log = checkout.ray_log
    log.parent.mkdir(parents=True, exist_ok=True)
    small = not log.exists() or log.stat().st_size < _LARGEST_LOG
    with log.open("ab" if small else "wb") as output:  # several runs may write to it
        process = subprocess.Popen(
            guarded([sys.executable, "-m", __name__, str(place), str(checkout.root)]),
            cwd=checkout.root,
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


def _offered() -> dict[str, Any] | None:
    """Ask for the cluster that the flow offers; its address and its processes, or None where no flow offers one.

    That its processes live proves that it is ours: no other can listen where its control store does. (The token would prove
    nothing: a cluster without one takes any.)
    """
    folder = os.environ.get("GANTRY_CLUSTER")
    if not folder or not Path(folder).is_dir():
        return None
    place = Path(folder)
    token = uuid.uuid4().hex
    write_json(place / "wanted", token)
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(FileNotFoundError):  # the one that keeps it removes the note of one that died
            offer = read_json(place / "address")
            if not Watch(offer["processes"]).look():
                return offer
        if (place / "failed").exists() and (note := read_json(place / "failed"))["asking"] == token:
            raise StageError(f"The Ray cluster of this run did not start: {note['why']}.")
        if time.monotonic() > deadline:
            raise StageError(f"The Ray cluster of this run did not start within {START_SECONDS:.0f} s.")
        time.sleep(0.1)


@contextmanager
def _local(checkout: Checkout, num_cpus: int | None, log_to_driver: bool, token: str) -> Iterator[dict[str, str]]:
    """Start Ray on this machine, reachable by its owner alone, for the length of the block; yields its core processes."""
    folder = session_folder(checkout.ray)
    with private_ray(token):
        _start_local(folder, num_cpus, log_to_driver)
        yield core_processes()


def _start_local(folder: str, num_cpus: int | None, log_to_driver: bool) -> None:
    import ray

    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                log_to_driver=log_to_driver,
                logging_level=logging.WARNING,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
            )
            return
        except Exception as error:
            # That a node took longer to register than it may, Ray says only in words.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == _STARTS:
                raise StageError(
                    f"Ray did not start within its limit, {_STARTS} times: this machine is too busy or short of memory. Try "
                    "again later, or raise RAY_raylet_start_wait_time_s (seconds) in the environment. Ray's logs are in "
                    f"{folder}/session_latest/logs."
                ) from error
            LOG.warning("Ray did not start within its own limit (attempt %d of %d); trying again.", attempt, _STARTS)


def main() -> None:
    """``python -m pipelines.runtime.cluster FOLDER CHECKOUT``: keep a local cluster and leave its address in FOLDER."""
    place, checkout = Path(sys.argv[1]), Checkout.at(sys.argv[2])
    redact_output()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with _local(checkout, None, False, os.environ["RAY_AUTH_TOKEN"]) as processes:
        import ray

        write_json(place / "address", {"address": ray.get_runtime_context().gcs_address, "processes": processes})
        watch = Watch(processes)
        try:
            while not watch.look():
                time.sleep(0.5)
        finally:
            if not watch.look():
                ray.shutdown()
    print(f"The Ray cluster died: its {watch.died} is gone.", file=sys.stderr, flush=True)
    os._exit(1)  # the guard ends what is left; Ray's own end would wait for the dead


if __name__ == "__main__":
    main()
