"""Shorten the output of a failed DVC command for an error message."""

import os
import re

from gan_core.disk import describe_os_error

_NOISE = re.compile(r"Having any troubles\?|^\s*$")
_PREFIX = re.compile(r"^ERROR: (?:unexpected error - )?")
_OF_SYSTEM = re.compile(r"\[Errno (?P<errno>\d+)\] [^:\n]*: (?P<quote>['\"])(?P<name>[^\n]+?)(?P=quote)")


def dvc_error(output: str, lines: int = 10) -> str:
    """The last ``lines`` of DVC's output, without blank lines, the prefix "ERROR:" and the offer of help.

    An error of the operating system (no permission, a full disk) becomes one line with the file, the reason and the remedy.
    """
    if found := _OF_SYSTEM.search(output):
        number = int(found["errno"])
        return describe_os_error(OSError(number, os.strerror(number), found["name"]))
    said = [_PREFIX.sub("", line) for line in output.splitlines() if not _NOISE.search(line)]
    return "\n".join(said[-lines:]) or "it gave no reason."
