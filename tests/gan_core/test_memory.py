"""Available memory includes the limits of containers, and an error of exhausted memory is recognised."""

from pathlib import Path

import pytest
import torch

from gan_core import memory


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
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    without = memory.available_memory()
    assert without > 5_000_000
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[1]).write_text("4000000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} 1000000\n")
    (folder / names[0]).write_text("max\n")
    assert memory.available_memory() > 5_000_000
    (folder / names[0]).write_text("5000000\n")
    assert memory.available_memory() == 2_000_000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_an_error_of_exhausted_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_the_error_of_torch_on_a_cpu_without_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**62, dtype=torch.uint8)
    assert memory.is_out_of_memory(raised.value)
