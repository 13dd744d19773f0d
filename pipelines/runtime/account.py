"""The user account that this process runs under, where the system does not know it: containers often run as a mere number."""

import getpass
import os
import socket
from collections.abc import Callable
from pathlib import Path

from gan_core.errors import SettingsError


def user_name() -> str:
    """The name of the user of this process, or ``uid-1234`` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def complete_account() -> None:
    """Give this process and its children a user name, which DVC and MLflow ask for, and make sure of a home directory.

    Raises:
        SettingsError: there is neither a HOME nor an entry in the system's list of users.
    """
    os.environ["LOGNAME"] = user_name()
    try:
        Path.home()
    except RuntimeError:
        raise SettingsError(
            f"User {os.getuid()} of this machine has no home directory, and DVC, Ray and MLflow need one. Set HOME to a folder "
            "that this user may write to."
        ) from None


def git_signature(configured: Callable[[str], str]) -> dict[str, str]:
    """The variables that sign a commit as this user, where neither git's settings nor the environment name anybody.

    A container has no ``user.name`` and no ``user.email`` as a rule, and DVC cannot record an experiment without them.

    Args:
        configured: the value of a setting of git, or "".
    """
    here = {"user.name": user_name(), "user.email": f"{user_name()}@{socket.gethostname()}"}
    missing = {name: value for name, value in here.items() if not configured(name)}
    return {
        variable: os.environ.get(variable) or value
        for name, value in missing.items()
        for variable in (f"GIT_{role}_{name.removeprefix('user.').upper()}" for role in ("AUTHOR", "COMMITTER"))
    }
