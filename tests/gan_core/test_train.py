"""The command line of gan_core: settings as options, errors that name them, and an exported generator."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gan_core import train
from gan_core.errors import CheckpointError, DataError, SettingsError
from gan_core.families import FAMILIES
from gan_core.families.dcgan import DcganConfig
from gan_core.inference.generator import load_generator
from gan_core.locks import folder_lock
from gan_core.training import length
from gan_core.training.config import TrainConfig
from gan_core.training.length import Costs
from gan_core.training.trainer import Trainer
from tests.datasets import blobs, write_prepared

ROOT = Path(__file__).parents[2]


def parsed(*arguments: str) -> tuple:
    return train.settings(train.parse(["--data", "d", "--out", "o", *arguments]))


def test_without_options_defaults_are_used() -> None:
    assert parsed() == (DcganConfig(), TrainConfig())


def test_every_setting_is_an_option_with_its_name() -> None:
    family, config = parsed(
        "--generator-lr", "3e-4", "--mirror", "true", "--steps", "7", "--precision", "bf16",
        "--model", "width=64", "--model", "prior=normal",
    )  # fmt: skip
    assert (config.generator_lr, config.mirror, config.steps, config.precision) == (3e-4, True, 7, "bf16")
    assert (family.width, family.prior) == (64, "normal")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "many"], r"train\.steps: expected a whole number, got 'many'"),
        (["--model", "widht=3"], r"Unknown setting 'model\.widht'\. Did you mean 'width'\?"),
        (["--model", "width"], "--model width: expected NAME=VALUE"),
        (
            ["--steps", "9", "--minutes", "5"],
            r"train\.steps and train\.minutes: both are given \(9 and 5\).* Remove one",
        ),
        (["--minutes", "0"], r"train\.minutes: must be above 0"),
        (["--minutes", ".nan"], r"train\.minutes: nan is not a finite number"),
        (["--steps", "["], r"--steps: '\[' is not a YAML value"),
        (["--model", "width=["], r"--model width: '\[' is not a YAML value"),
        (["--start-from", ""], r"--start-from: is empty"),
        (["--minutes", " "], r"--minutes: is empty"),
        (["--model", "width="], r"--model width: is empty"),
        (["--family", "dcgam"], r"unknown family 'dcgam'\. Did you mean 'dcgan'\?"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parsed(*arguments)


@pytest.mark.parametrize(("text", "name"), [("3", "3"), ("2026-01-31", "2026-01-31"), ("no", "no"), ("null", None)])
def test_a_run_to_start_from_is_a_name_whatever_yaml_makes_of_it(text: str, name: str | None) -> None:
    assert parsed("--start-from", text)[1].start_from == name


def test_training_writes_metrics_grids_checkpoints_and_a_generator(tmp_path: Path) -> None:
    data, out = write_prepared(tmp_path / "data", blobs(32)), tmp_path / "out"
    train.main(
        ["--data", str(data), "--out", str(out), "--device", "cpu", "--steps", "6", "--batch", "8", "--log-every", "2",
         "--sample-every", "3", "--checkpoint-every", "4", "--model", "width=4", "--model", "latent=8"]
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert sorted(path.name for path in (out / "grids").iterdir()) == [f"step-0000000{step}.png" for step in (0, 3, 6)]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]
    assert load_generator(out / "generator").sample(2, 0).shape == (2, 1, 16, 16)


def test_the_preset_chooses_and_prints_what_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_prepared(tmp_path / "data", blobs(32)), tmp_path / "out"
    train.main(
        ["--data", str(data), "--out", str(out), "--device", "cpu", "--preset", "auto", "--steps", "2",
         "--model", "width=4"]
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "auto: train.batch = 8 (16 pixels on a CPU, 32 pictures)" in told
    assert "model.width" not in told
    assert load_generator(out / "generator").info["config"]["width"] == 4
    assert [json.loads(line)["progress/kimg"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [0.016]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"--data": "nowhere"}, DataError, "No prepared dataset in"),
        ({"--out": "a-file"}, SettingsError, "--out: a-file is a file"),
        ({"--device": "gpu"}, SettingsError, "unknown device 'gpu'"),
        ({"--device": "meta"}, SettingsError, "unknown device 'meta'"),
        ({"--family": "stylegan2", "--batch": "7", "--accumulate": "2"}, SettingsError, "batch: 7 is not divisible"),
    ],
)
def test_an_invalid_combination_is_an_error_that_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_prepared(tmp_path / "data", blobs(4))
    (tmp_path / "a-file").touch()
    arguments = {"--data": "data", "--out": "out", "--device": "cpu", **changed}
    with pytest.raises(error, match=message):
        train.main([word for pair in arguments.items() for word in pair])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "data"]


def test_two_processes_never_train_into_one_folder(tmp_path: Path) -> None:
    data, out = write_prepared(tmp_path / "data", blobs(8)), tmp_path / "out"
    with folder_lock(out), pytest.raises(SettingsError, match="another process is training into .*out"):
        train.main(["--data", str(data), "--out", str(out), "--device", "cpu"])
    assert not out.exists()


def test_a_run_that_has_already_reached_its_steps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_prepared(tmp_path / "data", blobs(8)), tmp_path / "out"
    words = ["--data", str(data), "--out", str(out), "--device", "cpu", "--batch", "4", "--model", "width=4"]
    train.main([*words, "--steps", "3"])
    assert "already at step" not in capsys.readouterr().out
    train.main([*words, "--steps", "2"])
    assert "is already at step 3. Give a --steps larger than 3" in capsys.readouterr().out


def test_a_run_that_is_refused_does_not_count_as_started_from_another(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data", blobs(8))
    words = ["--data", str(data), "--device", "cpu", "--batch", "4", "--model", "width=4", "--steps", "1"]
    for name in ("random", "other"):
        train.main([*words, "--out", str(tmp_path / name)])
    with pytest.raises(CheckpointError, match=r"train\.start: None in the checkpoint"):
        train.main([*words, "--out", str(tmp_path / "random"), "--start-from", str(tmp_path / "other")])
    assert not (tmp_path / "random" / train.PARENT).exists()


def test_a_run_without_checkpoints_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose checkpoints were removed, as the error about other settings suggests, has the length of the run before."""
    data, out = write_prepared(tmp_path / "data", blobs(8)), tmp_path / "out"
    words = ["--data", str(data), "--out", str(out), "--device", "cpu", "--model", "width=4", "--minutes", "1"]
    costs = {"4": 20.0, "8": 30.0}
    for batch, seconds in costs.items():
        monkeypatch.setattr(length, "_measure", lambda *_, seconds=seconds: Costs(step=seconds))
        train.main([*words, "--batch", batch, "--checkpoint-every", "1"])
        assert length.read_length(out).steps == 60 / seconds
        shutil.rmtree(out / "checkpoints")


def test_a_run_of_so_many_minutes_equals_one_of_as_many_steps_also_when_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rates decay, and auto derives the weight of StarGAN v2's diversity loss from the steps: both know them."""
    data = write_prepared(tmp_path / "data", blobs(16, channels=3), np.arange(16) % 2, kind="domains")
    small = [word for name in ("width=4", "width_max=4", "hidden=8") for word in ("--model", name)]
    words = ["--data", str(data), "--device", "cpu", "--family", "stargan2", "--preset", "auto", "--batch", "2", *small,
             "--decay-from", "0.5", "--checkpoint-every", "2", "--precision", "fp32"]  # fmt: skip
    measured = 0

    def measure(*arguments: object) -> Costs:
        nonlocal measured
        measured += 1
        return Costs(step=1.0)

    monkeypatch.setattr(length, "_measure", measure)
    save = Trainer._save

    def killed(trainer: Trainer) -> None:
        save(trainer)
        if trainer.step == 4:
            raise KeyboardInterrupt

    budget = ["--out", str(tmp_path / "budget"), "--minutes", "0.1"]
    monkeypatch.setattr(Trainer, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train.main([*words, *budget])
    monkeypatch.setattr(Trainer, "_save", save)
    assert "auto: model.diversity_steps = 6 (" in capsys.readouterr().out
    train.main([*words, *budget])
    assert measured == 1
    assert json.loads((tmp_path / "budget" / length.LENGTH).read_text())["steps"] == 6
    train.main([*words, "--out", str(tmp_path / "steps"), "--steps", "6"])
    for name in ("generator", "start"):
        files = [
            {path.name: path.read_bytes() for path in (tmp_path / run / name).iterdir()} for run in ("budget", "steps")
        ]
        assert files[0] == files[1], name
    train.main([*words, *budget])
    assert "is already at step 6. Give a --steps larger than 6 in place of --minutes" in capsys.readouterr().out


def test_the_help_explains_every_setting_of_a_run_and_of_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    for field in dataclasses.fields(TrainConfig):
        assert len(train.field_docs(TrainConfig)[field.name]) > 5, field.name
    for name, family in FAMILIES.items():
        for field, meaning in train.field_docs(family.Config).items():
            assert len(meaning) > 5, f"{name}: {field}"
        with pytest.raises(SystemExit):
            train.parse(["--help", "--family", name])
    told = " ".join(capsys.readouterr().out.split())
    assert "Steps between two grids of sample pictures (default 200)" in told
    assert "limited to 5 % of the images seen so far (default 10.0)" in told
    assert (
        "diversity_steps: Steps over which the weight of the diversity loss falls linearly to 0 (default 100000)"
        in told
    )
    assert "slope: Negative slope of the discriminator's leaky ReLUs (default 0.2)" in told
    assert "(Goodfellow et al (default" not in told


def test_a_resumed_console_removes_later_rows_and_an_incomplete_line(tmp_path: Path) -> None:
    rows = [json.dumps({"step": step}) + "\n" for step in range(1, 14)]
    (tmp_path / "metrics.jsonl").write_text("".join(rows) + '{"step": 14, "lo')
    console = train.Console(tmp_path, 20)
    console.resume(10)
    console.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(rows[:10])


def test_the_rate_of_a_resumed_run_leaves_out_the_steps_of_earlier_calls(tmp_path: Path) -> None:
    console = train.Console(tmp_path, 1000)
    console._bar.mininterval = 0.0
    console.resume(900)
    for step in (901, 902):
        time.sleep(0.05)
        console.checkpoint(None, step)
    shown = console._bar.format_dict
    console.close()
    assert (shown["n"], shown["initial"]) == (902, 900)
    assert shown["rate"] < 20  # of one step in 0.05 s


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_disk_that_is_full_when_metrics_are_logged_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    console = train.Console(tmp_path, 20)
    with pytest.raises(
        OSError, match="No space left on device"
    ) as caught:  # with a path, it ends the program in one line
        console.metrics({}, 1)
    console.close()
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")


def test_an_error_ends_the_program_with_one_line_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gan_core.train", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: No prepared dataset in")
    assert "Traceback" not in ended.stderr


def test_an_interrupt_says_how_to_resume_without_a_traceback(tmp_path: Path) -> None:
    data, out = write_prepared(tmp_path / "data", blobs(8)), tmp_path / "out"
    command = [sys.executable, "-m", "gan_core.train", "--data", str(data), "--out", str(out), "--device", "cpu"]
    settings = ["--batch", "4", "--model", "width=4", "--steps", "100000", "--log-every", "5"]
    process = subprocess.Popen([*command, *settings], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 180
        while not (out / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + signal.SIGINT
    assert told.splitlines()[-1].startswith("Stopped. Run the same command again to resume")
    assert "Traceback" not in told


def test_it_needs_nothing_but_torch_and_the_data() -> None:
    """None of the pipeline's libraries is imported, not even by way of another."""
    heavy = ("ray", "mlflow", "prefect", "dvc", "pipelines")
    code = f"import sys, gan_core.train; print([name for name in {heavy!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert ended.stdout.strip() == "[]", ended.stderr
