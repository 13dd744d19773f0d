"""Trials are valid, what is known is not run again, and the table shows the best first."""

import json
import shlex
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gan_core import train as command
from tests.budget.__main__ import TRIALS, Outcome, run_all, table
from tests.gpu.pack import Pack, fill

FIRST = Outcome(
    family="dcgan",
    data="drawn",
    minutes=5.0,
    trial="",
    fid=281.0,
    steps=2500,
    kimg=40.0,
    images_per_second=133.0,
    seconds=312.0,
)


@pytest.mark.parametrize(("family", "trial"), [(family, trial) for family in TRIALS for trial in TRIALS[family]])
def test_every_trial_is_a_valid_command(family: str, trial: str) -> None:
    words = ["--data", "d", "--out", "o", "--family", family, "--preset", "auto", "--minutes", "5", *shlex.split(trial)]
    command.settings(command.parse(words))


def test_the_best_comes_first_in_each_table() -> None:
    better = replace(FIRST, trial="--batch 64", fid=120.5)
    lines = table([FIRST, better, replace(FIRST, minutes=15.0)]).splitlines()
    assert lines[0] == "dcgan on drawn, 5 minutes"
    assert [line.split()[0] for line in lines[2:4]] == ["120.5", "281.0"]
    assert [line.split("  ")[-1] for line in lines[2:4]] == ["--batch 64", "(auto)"]
    assert lines[5] == "dcgan on drawn, 15 minutes"


def test_what_is_known_is_not_run_again_and_a_trial_that_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(fill(tmp_path / "pack", small=True))
    (tmp_path / "outcomes.jsonl").write_text(json.dumps(asdict(FIRST)) + "\n")
    options = Namespace(minutes=[5.0], data=["drawn"], families=["dcgan"], trials=["", "--batch 0"], out=tmp_path)
    assert not list(run_all(options, Pack(tmp_path / "pack", tmp_path)))
    assert "dcgan on drawn, 5 minutes, '--batch 0': error: train.batch: must be at least 1" in capsys.readouterr().err
