"""One Ray cluster for a whole pipeline run, started when the first stage needs it.

Starting Ray takes ten seconds or more, so the flow offers one cluster to all its stages (:func:`offer_cluster`). The stages
find a folder in GANTRY_CLUSTER. A stage that needs Ray (:func:`ray_cluster`) writes a request there and reads the cluster's
address from it. If no stage needs Ray, no cluster starts.
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
from contextvars import copy_context
from pathlib import Path
from typing import Any

from gan_core.errors import GantryError, StageError
from gan_core.files import read_json, write_json
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.code import PACKAGE_ROOT, PACKAGES
from pipelines.runtime.environment import set_up_environment
from pipelines.runtime.guard import guarded_command, has_succeeded
from pipelines.runtime.local_ray import (
    LOOPBACK,
    ProcessWatch,
    core_processes,
    new_token,
    private_environment,
    private_ray,
    session_folder,
)
from pipelines.runtime.owned import claim_folder, find_abandoned
from pipelines.runtime.redaction import redact_output
from pipelines.runtime.resources import usable_cpus

LOG = logging.getLogger(__name__)

START_SECONDS = 300.0
_STARTS = 2
_LARGEST_LOG = 1 << 20
_RESUMES = "Run the stage again: it resumes where it stopped."


@contextmanager
def ray_cluster(
    checkout: Checkout, *, num_cpus: int | None = None, log_to_driver: bool = True, send_code: bool = True
) -> Iterator[str]:
    """Connect this process to a Ray cluster for the length of the block; yields the cluster's address.

    Uses the first of these that exists: the cluster that this process is connected to; the one in RAY_ADDRESS; the one that the
    flow offers; else it starts a local one. A local cluster ends with the block and, under a guard, also when this process is
    killed.

    Args:
        checkout: a local cluster keeps its logs in its :attr:`Checkout.ray`.
        num_cpus: CPUs of a local cluster. Default: all that this process may use.
        log_to_driver: whether this process prints the output of the workers.
        send_code: whether the workers of the cluster in RAY_ADDRESS get this code; not needed to ask about its nodes.

    Raises:
        StageError: the cluster of RAY_ADDRESS or of the flow cannot be reached, a local cluster did not start, or the cluster
            died during the block.
    """
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    named = os.environ.get("RAY_ADDRESS")
    with ExitStack() as stack:
        if named:
            remedy = "Start it, check RAY_AUTH_TOKEN, or unset RAY_ADDRESS for a local one"
            processes = _connect(named, log_to_driver, remedy, send_code=send_code)
        elif offer := _offered():
            stack.enter_context(private_ray(os.environ["RAY_AUTH_TOKEN"]))
            remedy = "Run the stage again: the pipeline run starts a new cluster"
            processes = _connect(offer["address"], log_to_driver, remedy, offer["processes"])
        else:
            processes = stack.enter_context(_local(checkout, num_cpus, log_to_driver, new_token()))
        watch = ProcessWatch(processes)
        try:
            with watch:
                yield ray.get_runtime_context().gcs_address
        except (KeyboardInterrupt, Exception) as error:
            if (explained := _explained(error, watch.find_dead())) is None:
                raise
            raise explained from error
        finally:
            if watch.find_dead():
                atexit.unregister(ray._private.worker.shutdown)
                atexit.register(_end_at_once)
            else:
                ray.shutdown()


def _end_at_once() -> None:
    """End a process whose cluster died. (Ray's own shutdown would wait for the dead cluster and then crash with signal 11.)

    The exit status is 0 if the stage's results are already in place.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if has_succeeded() else 1)


def _explained(error: BaseException, died: str | None) -> StageError | None:
    """A StageError if ``error`` was caused by the death of a Ray process; else None. ``died``: the dead process, if known."""
    import ray

    if died:
        reason = "The system's log (dmesg) says whether the machine ran out of memory."
        return StageError(f"The Ray cluster of this run died: its {died} is gone. {reason} {_RESUMES}")
    if isinstance(error, ray.exceptions.RayError) and not isinstance(error, (GantryError, ray.exceptions.RayTaskError)):
        return StageError(f"A process of the Ray cluster died ({first_line(error)}). {_RESUMES}")
    return None


def first_line(error: BaseException) -> str:
    """The first line of the message of ``error`` without its full stop, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _connect(
    address: str,
    log_to_driver: bool,
    remedy: str,
    processes: Mapping[str, str] | None = None,
    *,
    send_code: bool = False,
) -> Mapping[str, str]:
    """Connect to the cluster at ``address``; returns ``processes``, the processes to watch.

    With ``send_code`` the workers import Gantry's code as it is here, whatever is installed on their hosts.
    """
    import ray

    code = {"py_modules": [str(PACKAGE_ROOT / name) for name in PACKAGES], "excludes": ["**/__pycache__"]}
    try:
        ray.init(
            address=address,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
            runtime_env=code if send_code else None,
        )
    except (ConnectionError, ray.exceptions.RayError) as error:
        raise StageError(f"The Ray cluster at {address} cannot be reached: {first_line(error)}. {remedy}.") from error
    return processes or {}


@contextmanager
def offer_cluster(checkout: Checkout, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Offer a Ray cluster to child processes; yields the variables to add to their environment.

    The cluster starts, in a process of its own, when the first child requests it, and ends with the block. If it dies, a new
    one starts at the next request.

    Args:
        checkout: where the stages run.
        environment: environment of the stages, which Ray's workers need as well.
    """
    if environment.get("RAY_ADDRESS"):
        yield {}
        return
    with _place(checkout.cluster_offers) as place:
        # The token of this cluster: only the stages of this run have it.
        private = private_environment(new_token())
        ended = threading.Event()
        # In a copy of this context: Prefect keeps there which server its log handler writes to, and for which run.
        keeper = threading.Thread(
            target=copy_context().run,
            args=(_keep, checkout, place, {**environment, **private}, ended),
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
    """Make a folder in ``folder`` for the files of one offer and remove it after the block. Removes those of killed runs."""
    for old in find_abandoned(folder):
        shutil.rmtree(old, ignore_errors=True)
    place = folder / f"offer-{uuid.uuid4().hex[:12]}"
    with claim_folder(place):
        yield place


def _keep(checkout: Checkout, place: Path, environment: dict[str, str], ended: threading.Event) -> None:
    """Start the cluster when a stage requests it, again if it has died and a stage requests it, and end it with the offer."""
    answered = None
    while not ended.wait(0.2):
        if (asking := _asking(place)) == answered:
            continue
        LOG.info("Starting a Ray cluster for this run.")
        try:
            why = (
                f"it ended with status {_run_until(ended, checkout, place, environment)}; its log is {checkout.ray_log}"
            )
        except OSError as error:  # its log cannot be written, or there are too many processes
            why = str(error)
        (place / "address").unlink(missing_ok=True)  # no stage may connect to a cluster that is gone
        answered = _asking(place) or asking
        if not ended.is_set():
            try:
                write_json(place / "failed", {"asking": answered, "why": why})
            except OSError as error:
                LOG.error("The Ray cluster died: %s. This cannot be written to %s: %s.", why, place, error)


def _asking(place: Path) -> str | None:
    """The token of the last request; None if there is none."""
    with suppress(FileNotFoundError):
        return read_json(place / "wanted")
    return None


def _run_until(ended: threading.Event, checkout: Checkout, place: Path, environment: dict[str, str]) -> int:
    """Run the process that keeps a cluster until it ends or the offer ends; returns its exit status."""
    log = checkout.ray_log
    log.parent.mkdir(parents=True, exist_ok=True)
    small = not log.exists() or log.stat().st_size < _LARGEST_LOG
    with log.open("ab" if small else "wb") as output:  # several runs may write to it
        process = subprocess.Popen(
            guarded_command([sys.executable, "-m", __name__, str(place), str(checkout.root)]),
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
    """Request the cluster that the flow offers; returns its address and processes, or None if no flow offers one.

    The cluster is this run's own if its processes still run: no other program can then listen at the address of its control
    store. (The token would not prove it: a cluster without a token accepts any.)
    """
    folder = os.environ.get("GANTRY_CLUSTER")
    if not folder or not Path(folder).is_dir():
        return None
    place = Path(folder)
    token = uuid.uuid4().hex
    write_json(place / "wanted", token)
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(FileNotFoundError):  # the keeper removes the address of a cluster that died
            offer = read_json(place / "address")
            if not ProcessWatch(offer["processes"]).find_dead():
                return offer
        if (place / "failed").exists() and (note := read_json(place / "failed"))["asking"] == token:
            raise StageError(f"The Ray cluster of this run did not start: {note['why']}.")
        if time.monotonic() > deadline:
            raise StageError(f"The Ray cluster of this run did not start within {START_SECONDS:.0f} s.")
        time.sleep(0.1)


@contextmanager
def _local(checkout: Checkout, num_cpus: int | None, log_to_driver: bool, token: str) -> Iterator[dict[str, str]]:
    """Start Ray on this machine, reachable only by its owner, for the length of the block; yields its core processes."""
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
                num_cpus=num_cpus or usable_cpus(),
                log_to_driver=log_to_driver,
                logging_level=logging.WARNING,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
            )
            return
        except Exception as error:
            # Ray has no error class for a node that took too long to register.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == _STARTS:
                raise StageError(
                    f"Ray did not start in time, {_STARTS} times in a row: this machine is too busy or short of memory. Try "
                    "again later, or set RAY_raylet_start_wait_time_s (seconds) in the environment higher. Ray's logs are in "
                    f"{folder}/session_latest/logs."
                ) from error
            LOG.warning("Ray did not start in time (attempt %d of %d); trying again.", attempt, _STARTS)


def main() -> None:
    """``python -m pipelines.runtime.cluster FOLDER CHECKOUT``: run a local cluster and write its address to FOLDER."""
    place, checkout = Path(sys.argv[1]), Checkout.at(sys.argv[2])
    redact_output()
    set_up_environment()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with _local(checkout, None, False, os.environ["RAY_AUTH_TOKEN"]) as processes:
        import ray

        write_json(place / "address", {"address": ray.get_runtime_context().gcs_address, "processes": processes})
        watch = ProcessWatch(processes)
        try:
            while not watch.find_dead():
                time.sleep(0.5)
        finally:
            if not watch.find_dead():
                ray.shutdown()
    print(f"The Ray cluster died: its {watch.died} is gone.", file=sys.stderr, flush=True)
    os._exit(1)  # the guard ends the rest; Ray's own shutdown would wait for the dead process


if __name__ == "__main__":
    main()
