"""The user's name and home directory, even if the system does not know the user: containers often run with a bare user id."""

import getpass
import os
import socket
from collections.abc import Callable
from pathlib import Path

from gan_core.errors import SettingsError


def user_name() -> str:
    """The name of the user of this process, or ``uid-1234`` if the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def ensure_account() -> None:
    """Set LOGNAME for this process and its children, because DVC and MLflow need a user name, and check the home directory.

    Raises:
        SettingsError: HOME is not set, and the system's list of users has no home directory for this user.
    """
    os.environ["LOGNAME"] = user_name()  # where getpass, which both ask, looks first
    try:
        Path.home()
    except RuntimeError:
        raise SettingsError(
            f"User {os.getuid()} of this machine has no home directory, which DVC, Ray and MLflow need. Set HOME to a folder "
            "that this user can write to."
        ) from None


def git_signature(configured: Callable[[str], str]) -> dict[str, str]:
    """Environment variables that name this user as a commit's author, for each name that git's settings do not have.

    A container usually has no ``user.name`` and no ``user.email``, and DVC cannot record an experiment without them.

    Args:
        configured: returns the value of a git setting, or "" if it is not set.
    """
    here = {"user.name": user_name(), "user.email": f"{user_name()}@{socket.gethostname()}"}
    missing = {name: value for name, value in here.items() if not configured(name)}
    return {
        variable: os.environ.get(variable) or value
        for name, value in missing.items()
        for variable in (f"GIT_{role}_{name.removeprefix('user.').upper()}" for role in ("AUTHOR", "COMMITTER"))
    }
