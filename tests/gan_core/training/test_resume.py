"""A run that was killed with SIGKILL at three steps and resumed ends with the same bytes as an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_core import train
from gan_core.checkpoint import list_checkpoints
from tests.gan_core.training.runs import Notes, final, short_run

STEPS = 120
KILLS = (13, 48, 85)
ROOT = Path(__file__).parents[3]


def arguments(data: Path, out: Path) -> list[str]:
    settings = {
        "steps": STEPS, "batch": 32, "log-every": 1, "sample-every": 30, "checkpoint-every": 10, "precision": "fp32",
        "mirror": "true", "device": "cpu",
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return ["--data", str(data), "--out", str(out), "--model", "width=8", "--model", "latent=16", *options]


def logged(out: Path) -> list[int]:
    """The steps of the complete lines of the metrics file."""
    try:
        lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def kill_at(step: int, data: Path, out: Path) -> None:
    """Start training in a separate process and kill it with SIGKILL once it has logged ``step``."""
    with open(out.parent / f"output-{step}.txt", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gan_core.train", *arguments(data, out)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 180
            while not (steps := logged(out)) or steps[-1] < step:
                assert process.poll() is None, Path(output.name).read_text()
                assert time.monotonic() < end, f"step {step} was not reached: {Path(output.name).read_text()}"
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert step <= logged(out)[-1] < STEPS, "killed too late to prove anything"
    assert not (out / "generator").exists()


@pytest.fixture(scope="module")
def whole(blob_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    import torch

    out = tmp_path_factory.mktemp("whole") / "out"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train.main(arguments(blob_folder, out))
    torch.set_num_threads(threads)
    return out


def test_a_run_killed_at_three_steps_and_during_a_checkpoint_ends_with_the_same_bytes(
    blob_folder: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for index, step in enumerate(KILLS):
        kill_at(step, blob_folder, out)
        if index == 1:
            # As if the process had been killed while copying the newest checkpoint and while writing another one.
            newest = list_checkpoints(out / "checkpoints")[0] / "tensors.safetensors"
            newest.write_bytes(newest.read_bytes()[:-1000])
            (out / "checkpoints" / ".step-00000099.half" / "step-00000099").mkdir(parents=True)
    train.main(arguments(blob_folder, out))
    last = f"checkpoints/step-{STEPS:08d}"
    for name in (f"{last}/tensors.safetensors", f"{last}/state.json", f"{last}/manifest.json",
                 "generator/generator.safetensors", "generator/generator.json",
                 *(f"grids/step-{step:08d}.png" for step in (30, 60, 90, 120))):  # fmt: skip
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert logged(out) == list(range(1, STEPS + 1))  # each row once
    assert not list((out / "checkpoints").glob(".*"))


def test_restarting_a_finished_run_only_exports_the_same_generator(blob_folder: Path, whole: Path) -> None:
    before = (whole / "generator" / "generator.safetensors").read_bytes(), logged(whole)
    train.main(arguments(blob_folder, whole))
    assert ((whole / "generator" / "generator.safetensors").read_bytes(), logged(whole)) == before


def test_a_checkpoint_on_demand_is_one_to_resume_from(blob_data, tmp_path):
    """Such as on notice that this machine is about to be taken away."""

    class Asks(Notes):
        def wants_checkpoint(self, step: int) -> bool:
            return step == 13

    undisturbed = short_run(blob_data, tmp_path, name="undisturbed")
    undisturbed.run()
    leaving = short_run(blob_data, tmp_path, observer=(notes := Asks()))
    leaving.run(until=14)
    assert notes.checkpoints == [0, 10, 13]
    assert 13 in notes.rows, "health is diagnosed before the checkpoint is written"
    resumed = short_run(blob_data, tmp_path)
    assert resumed.step == 13
    resumed.run()
    assert final(tmp_path / "run")[0] == final(tmp_path / "undisturbed")[0]
