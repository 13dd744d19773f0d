"""The device and the precision follow the machine, and the choice is logged."""

import logging

import pytest
import torch

from gan_core import precision
from gan_core.errors import SettingsError

CPU = torch.device("cpu")


def test_auto_uses_the_gpu_if_there_is_one() -> None:
    assert precision.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert precision.choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "xla", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(SettingsError, match=f"device: .*'{name}'.* Use auto"):
        precision.choose_device(name)


@pytest.mark.parametrize(("instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_follows_the_instructions_and_logs_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, instructions: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: instructions)
    with caplog.at_level(logging.INFO):
        assert precision.choose_precision("auto", CPU) is expected
    assert ("the cpu has bf16" if instructions else "the cpu has no bf16") in caplog.text


def test_a_given_precision_is_used_on_any_machine() -> None:
    assert precision.choose_precision("bf16", CPU) is torch.bfloat16
    assert precision.choose_precision("fp32", CPU) is torch.float32


def test_a_cpu_has_bf16_only_with_instructions_for_it() -> None:
    """Linux lists them in /proc/cpuinfo; emulation, which oneDNN also calls support, does not count."""
    try:
        flags = open("/proc/cpuinfo").read().split()  # noqa: SIM115
    except OSError:
        pytest.skip("no /proc/cpuinfo here")
    assert precision.has_bf16(CPU) == bool({"avx512_bf16", "amx_tile"} & set(flags))
