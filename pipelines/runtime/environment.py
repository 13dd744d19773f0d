"""Set the environment variables of every Gantry process, once, before any library that reads them is imported.

Ray, Prefect, MLflow, DVC and matplotlib read these settings only from the environment, and child processes inherit them.
"""

import os
import sys
from contextlib import suppress

from gan_core.cache import user_cache_dir
from gan_core.errors import SettingsError
from pipelines.runtime.checkout import VAR_VARIABLE, Checkout
from pipelines.runtime.proxies import proxy_exclusions

PREFECT_RETRIES = {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500", "PREFECT_CLIENT_MAX_RETRIES": "7"}
"""For clients of a Prefect server that answers 500 while its database restarts. Eight attempts, with pauses of 2, 4, 8 ... s,
last about four minutes."""

DEFAULTS = {
    # Switch off telemetry in everything that Gantry starts. A user who wants it sets the variable.
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Gantry's own log lines belong to the log of the flow run.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipelines",
    # Otherwise Ray prints a native stack trace when a signal ends it. Python still prints one for a real crash.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    # A training worker that waits for a lost one cannot leave the process group; Ray kills it only after half a minute.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    # How long Ray Train waits for places for its workers before it counts the nodes again: one of them may be gone.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    # How often Ray Train looks whether its workers run, have failed or are done.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How often Ray Train looks whether a node is about to be taken away.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    # Tune would end a search at Ctrl-C as if its trials were done, and the best until then would win.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Gantry prints the progress of a search instead of Tune's tables. Tune warns of each snapshot that it takes often.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Variables that are set to these values unless the user has set them."""

FOLDERS = (VAR_VARIABLE, "GANTRY_CACHE_DIR", "GANTRY_WEIGHTS_DIR")
"""Variables with which a user chooses a folder of Gantry's. A relative path is relative to where the command was started."""
DVC_PLACE = "/var/tmp"
"""Where DVC keeps hashes of the files of each project on Linux."""


def set_up_environment() -> None:
    """Set :data:`DEFAULTS` for this process and its children, make :data:`FOLDERS` absolute, exclude loopback from proxies."""
    with suppress(OSError):  # the current folder does not exist any more, which the command reports
        for name in FOLDERS:  # stages, worktrees and Ray's workers have other current folders
            if given := os.environ.get(name):
                os.environ[name] = os.path.abspath(given)
    folders = {}
    with suppress(SettingsError):  # no home directory, which ensure_account reports
        # By default, matplotlib writes its list of fonts to two folders in the home directory.
        folders["MPLCONFIGDIR"] = str(user_cache_dir() / "matplotlib")
        if sys.platform == "linux" and not os.access(DVC_PLACE, os.W_OK):  # a container with a read-only root
            folders["DVC_SITE_CACHE_DIR"] = str(user_cache_dir() / "dvc")
    with suppress(OSError):  # the current folder does not exist any more, which the command reports
        # Prefect creates its home folder on import. This leaves the user's own folder and profiles alone.
        folders["PREFECT_HOME"] = str(Checkout.at().prefect)
    for name, value in (DEFAULTS | folders).items():
        os.environ.setdefault(name, value)
    os.environ.update(proxy_exclusions(os.environ))


def open_standard_streams() -> None:
    """Open ``/dev/null`` in place of a standard stream that is closed, as by ``gantry serve >&- 2>&-``.

    Otherwise the next file or socket would get its number, and the output of child processes.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest free number, this one
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
