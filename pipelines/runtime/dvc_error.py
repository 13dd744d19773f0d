"""What DVC's command line says of its failures, made fit for a message of ours."""

import os
import re

from gan_core.disk import what_failed

_NOISE = re.compile(r"Having any troubles\?|^\s*$")
_PREFIX = re.compile(r"^ERROR: (?:unexpected error - )?")
_OF_SYSTEM = re.compile(r"\[Errno (?P<errno>\d+)\] [^:\n]*: (?P<quote>['\"])(?P<name>[^\n]+?)(?P=quote)")


def dvc_error(output: str, lines: int = 10) -> str:
    """The last ``lines`` of DVC's output without blank lines, its prefix and its offer of help.

    A refusal of the system (no permission, a full disk) is one line with the file, the reason and the remedy.
    """
    if found := _OF_SYSTEM.search(output):
        number = int(found["errno"])
        return what_failed(OSError(number, os.strerror(number), found["name"]))
    said = [_PREFIX.sub("", line) for line in output.splitlines() if not _NOISE.search(line)]
    return "\n".join(said[-lines:]) or "it gave no reason."
