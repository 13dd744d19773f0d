"""Damaged checkpoints are skipped, there is no pickle in them, and resuming with other settings is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gan_core import checkpoint as checkpoints
from gan_core.checkpoint import load_checkpoint, save_checkpoint, valid_checkpoints, write_tensors
from gan_core.errors import CheckpointError
from gan_core.files import sha256_file


def tensors(step: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(step)
    wide = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)
    return {
        "wide": wide,
        "scalar": torch.tensor(float(step)),
        "half": torch.randn(7).bfloat16(),
        "count": torch.tensor(3),
    }


def save(directory: Path, *steps: int, **state) -> list[Path]:
    return [save_checkpoint(directory, step, tensors(step), {"poor": 0, **state}) for step in steps]


def test_saved_tensors_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 12, settings={"lr": 2e-4, "name": "x"}, nothing=None)
    assert path == tmp_path / "step-00000012"
    loaded = load_checkpoint(path)
    assert loaded.step == 12
    assert loaded.state == {"step": 12, "poor": 0, "settings": {"lr": 2e-4, "name": "x"}, "nothing": None}
    assert loaded.tensors.keys() == tensors(12).keys()
    for name, tensor in tensors(12).items():
        assert torch.equal(loaded.tensors[name], tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_the_folder_holds_tensors_and_json_and_no_pickle(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "state.json", "tensors.safetensors"]
    for file in path.iterdir():
        start = file.read_bytes()[:2]
        assert start[:1] != b"\x80"  # a pickle of protocol 2 or newer
        assert start != b"PK"  # torch.save's archive


def test_the_tensors_have_the_file_mode_of_the_umask(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 1)
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_equal_contents_make_equal_bytes(tmp_path: Path) -> None:
    (first,), (second,) = save(tmp_path / "a", 5), save(tmp_path / "b", 5)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def replace(path: Path, name: str, content: bytes) -> None:
    """Give a checkpoint other content under the right sums."""
    (path / name).write_bytes(content)
    sums = {file: sha256_file(path / file) for file in ("state.json", "tensors.safetensors")}
    (path / "manifest.json").write_text(json.dumps(sums))


HARMS = {
    "tensors cut short": (lambda p: truncate(p / "tensors.safetensors"), "tensors.safetensors does not match"),
    "tensors empty": (lambda p: (p / "tensors.safetensors").write_bytes(b""), "tensors.safetensors does not match"),
    "tensors missing": (lambda p: (p / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "one bit of the state": (lambda p: (p / "state.json").write_text("{}"), "state.json does not match"),
    "no manifest": (
        lambda p: (p / "manifest.json").unlink(),
        "manifest.json is missing: the checkpoint was not written completely",
    ),
    "half a manifest": (lambda p: truncate(p / "manifest.json"), "manifest.json is truncated"),
    "bytes for a manifest": (
        lambda p: (p / "manifest.json").write_bytes(b"\xff\x00\xfe"),
        "manifest.json is truncated",
    ),
    "a list for a manifest": (
        lambda p: (p / "manifest.json").write_text("[]"),
        "manifest.json does not contain SHA-256 sums",
    ),
    "null for a manifest": (
        lambda p: (p / "manifest.json").write_text("null"),
        "manifest.json does not contain SHA-256 sums",
    ),
    "brackets for a manifest": (
        lambda p: (p / "manifest.json").write_text("[" * 100_000),
        "manifest.json is truncated",
    ),
    "a list for a state": (lambda p: replace(p, "state.json", b"[]"), "state.json is not the state of a run"),
    "no step in the state": (
        lambda p: replace(p, "state.json", b'{"poor": 0}'),
        "state.json is not the state of a run",
    ),
    "a step that is no number": (
        lambda p: replace(p, "state.json", b'{"step": "9"}'),
        "state.json is not the state of a run",
    ),
    "brackets for a state": (lambda p: replace(p, "state.json", b"[" * 100_000), "state.json is not valid JSON"),
    "bytes for a state": (lambda p: replace(p, "state.json", b"\xff\x00"), "state.json is not valid JSON"),
    "junk for tensors": (
        lambda p: replace(p, "tensors.safetensors", b"junk" * 9),
        "tensors.safetensors is not a valid safetensors file",
    ),
    "a header without end": (
        lambda p: replace(p, "tensors.safetensors", (2**60).to_bytes(8, "little")),
        "tensors.safetensors is not a valid safetensors file",
    ),
    "an empty manifest": (lambda p: (p / "manifest.json").write_text("{}"), "state.json does not match"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    _, newest = save(tmp_path, 10, 20)
    damage, said = HARMS[harm]
    damage(newest)
    with caplog.at_level(logging.WARNING):
        found = next(valid_checkpoints([tmp_path]), None)
    assert found is not None
    assert found.step == 10
    assert f"Skipping checkpoint {newest}: {said}" in caplog.text
    with pytest.raises(CheckpointError, match="is damaged: "):
        load_checkpoint(newest)


def test_without_a_valid_checkpoint_nothing_is_found(tmp_path: Path) -> None:
    assert next(valid_checkpoints([tmp_path]), None) is None
    assert next(valid_checkpoints([tmp_path / "nowhere"]), None) is None
    (path,) = save(tmp_path, 1)
    (path / "manifest.json").unlink()
    assert next(valid_checkpoints([tmp_path]), None) is None


def test_the_newest_is_found_anywhere_below(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path / "ray" / "run" / "checkpoint_1", 30)
    found = next(valid_checkpoints([tmp_path]), None)
    assert found is not None
    assert found.step == 30


def test_only_checkpoints_that_are_accepted_are_used(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 20, poor=2)
    found = next(valid_checkpoints([tmp_path], lambda state: state["poor"] == 0), None)
    assert found is not None
    assert found.step == 10


def steps(directory: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in directory.glob("step-*"))


def test_pruning_keeps_the_newest_and_removes_temporary_folders(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, 40)
    (tmp_path / ".step-00000025.abc123" / "step-00000025").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    checkpoints.prune_checkpoints(tmp_path, keep=2, step=40)
    assert steps(tmp_path) == [30, 40]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000030", "step-00000040"]


def test_pruning_spares_the_newest_accepted_one(tmp_path: Path) -> None:
    """While a run is suspected of a collapse, the last healthy checkpoint must not be rotated away."""
    save(tmp_path, 10, 20)
    save(tmp_path, 30, 40, 50, poor=1)
    checkpoints.prune_checkpoints(tmp_path, 2, lambda state: state["poor"] == 0, step=50)
    assert steps(tmp_path) == [20, 40, 50]


def test_pruning_neither_counts_nor_removes_those_after_the_run_s_step(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30, 90)
    checkpoints.prune_checkpoints(tmp_path, 1, lambda state: True, step=30)
    assert steps(tmp_path) == [30, 90]


def test_checkpoints_after_a_step_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30)
    checkpoints.drop_checkpoints_after(tmp_path, 20)
    assert steps(tmp_path) == [10, 20]


@pytest.mark.parametrize(
    ("remove", "left"),
    [
        (lambda folder: checkpoints.prune_checkpoints(folder, keep=2, step=30), [20, 30]),
        (lambda folder: checkpoints.drop_checkpoints_after(folder, 20), [10, 20]),
    ],
    ids=["prune", "drop"],
)
def test_a_removal_that_was_killed_leaves_no_part_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], None], left: list[int]
) -> None:
    save(tmp_path, 10, 20, 30)

    def killed(path: Path, **options: bool) -> None:
        if path.exists():
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr("gan_core.checkpoint.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path)
    monkeypatch.undo()
    assert steps(tmp_path) == left
    checkpoints.remove_leftovers(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_changed_settings_are_named_one_by_one(tmp_path: Path) -> None:
    saved = {"train.batch": 64, "train.beta1": 0.5, "model.slope": 0.2, "gone": 1}
    current = {"train.batch": 32, "train.beta1": 0.5, "model.slope": 0.3, "new": [1]}
    with pytest.raises(CheckpointError) as caught:
        checkpoints.require_same_settings(saved, current, tmp_path / "step-00000010")
    message = str(caught.value)
    for said in (
        "step-00000010",
        "train.batch: 64 in the checkpoint, 32 in this run",
        "model.slope: 0.2 in the checkpoint, 0.3 in this run",
        "gone: 1 in the checkpoint, None in this run",
        "new: None in the checkpoint, [1] in this run",
        "empty folder",
    ):
        assert said in message
    assert "beta1" not in message
    checkpoints.require_same_settings(saved, dict(saved), tmp_path)


def test_a_setting_missing_in_an_older_checkpoint_has_its_default(tmp_path: Path) -> None:
    saved, defaults = {"model.slope": 0.2}, {"model.slope": 0.1, "model.r1_every": 1, "model.other": 3}
    checkpoints.require_same_settings(saved, {"model.slope": 0.2, "model.r1_every": 1}, tmp_path, defaults)
    with pytest.raises(CheckpointError, match=r"model\.r1_every: 1 in the checkpoint, 2 in this run"):
        checkpoints.require_same_settings(saved, {"model.slope": 0.2, "model.r1_every": 2}, tmp_path, defaults)


def test_pruning_ignores_a_state_that_cannot_be_read(tmp_path: Path) -> None:
    paths = save(tmp_path, 10, 20, 30)
    for path in paths[1:]:
        replace(path, "state.json", b"[]")
    checkpoints.prune_checkpoints(tmp_path, 1, lambda state: state["poor"] == 0, step=30)
    assert steps(tmp_path) == [10, 30]


def test_tensors_are_written_with_the_bytes_of_safetensors(tmp_path: Path) -> None:
    drawn = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    mixed = {f"network.{kind}": torch.randn(3, 5, generator=drawn).to(kind) for kind in kinds}
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    mixed |= {f"b.{kind}": torch.randint(0, 2, (7,), generator=drawn).to(kind) for kind in whole}
    mixed |= {"a.steps": torch.tensor(3), "empty": torch.zeros(0, 4), '\u00fc"': torch.zeros(1)}
    save_file(mixed, tmp_path / "theirs")
    write_tensors(tmp_path / "ours", dict(reversed(mixed.items())))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    last = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    write_tensors(tmp_path / "last", {"a": last})
    assert torch.equal(load_file(tmp_path / "last")["a"], last)
    write_tensors(tmp_path / "none", {})
    save_file({}, tmp_path / "theirs")
    assert (tmp_path / "none").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_error_when_the_file_of_tensors_is_closed_is_raised(tmp_path: Path) -> None:
    # As on NFS, which reports a full quota only then: these few bytes are written when the file is closed.
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_tensors(Path("/dev/full"), {"a": torch.zeros(1)})
