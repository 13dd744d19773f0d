"""Shorten the output of a failed DVC command."""

import pytest

from pipelines.runtime.dvc_error import dvc_error

HELP = "\n\nHaving any troubles? Hit us up at https://dvc.org/support, we are always happy to help!\n"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            f"ERROR: unexpected error - [Errno 13] Permission denied: '/a/.dvc/tmp/lock'{HELP}",
            "/a/.dvc/tmp/lock: permission denied. Change its permissions, or choose another folder.",
        ),
        (
            f"ERROR: output 'x' is already tracked by SCM (e.g. Git).{HELP}",
            "output 'x' is already tracked by SCM (e.g. Git).",
        ),
        (
            "Collecting\n\nERROR: unexpected error - 'getpwuid(): uid not found'",
            "Collecting\n'getpwuid(): uid not found'",
        ),
        ("", "it gave no reason."),
    ],
)
def test_the_reason_is_kept_without_the_offer_of_help(output: str, said: str) -> None:
    assert dvc_error(output) == said


def test_a_full_disk_is_named_with_its_free_space() -> None:
    said = dvc_error("ERROR: unexpected error - [Errno 28] No space left on device: '/tmp/x'")
    assert said.startswith("/tmp/x: no space left on device (")
    assert said.endswith("Free some space there, or choose another folder.")


def test_the_end_of_a_long_output_is_kept() -> None:
    assert dvc_error("\n".join(map(str, range(30))), lines=3) == "27\n28\n29"
