"""The device and the precision follow the machine, and the choice is logged."""

import logging
from pathlib import Path

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


@pytest.mark.parametrize(
    ("line", "group", "names"),
    [
        ("0::/pods/one", "pods/one", ("memory.max", "memory.current", "inactive_file")),
        ("0::/", "", ("memory.max", "memory.current", "inactive_file")),
        (
            "4:memory:/docker/of-the-host",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_the_available_memory_of_a_container_is_what_its_limit_leaves(
    line: str, group: str, names: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text(f"9:pids:/\n{line}\n")
    monkeypatch.setattr(precision, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(precision, "_CGROUPS", tmp_path)
    without = precision.available_memory()
    assert without > 5_000_000
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[1]).write_text("4000000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} 1000000\n")
    (folder / names[0]).write_text("max\n")
    assert precision.available_memory() > 5_000_000
    (folder / names[0]).write_text("5000000\n")
    assert precision.available_memory() == 2_000_000
