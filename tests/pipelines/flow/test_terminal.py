"""The log of a run in the terminal: short lines and a live bar; without a terminal, plain lines of progress."""

import io
import logging
import re

import pytest

from pipelines.flow import terminal
from pipelines.flow.terminal import Progress, TerminalHandler, parse_progress

TQDM = "features: generator:  32%|███▏      | 160/500 [00:11<00:23, 14.26img/s]"


class Screen(io.StringIO):
    """A terminal that records what was written and what is visible."""

    def isatty(self) -> bool:
        return True

    def seen(self) -> list[str]:
        lines = self.getvalue().split("\n")
        return [re.split(r"\r\x1b\[2K", line)[-1] for line in lines]


def log(
    handler: TerminalHandler, message: str, stage: str = "train", level: int = logging.INFO, **extra: object
) -> None:
    record = logging.LogRecord("prefect.task_runs", level, __file__, 1, message, None, None)
    record.__dict__.update(task_run_name=stage, **extra)
    handler.handle(record)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("COLUMNS", "120")
    return Screen()


@pytest.fixture
def plain() -> io.StringIO:
    return io.StringIO()


def test_a_line_names_the_time_and_the_stage_once(plain: io.StringIO) -> None:
    log(TerminalHandler(plain), "[train] resuming at step 300")
    assert re.fullmatch(r"\d\d:\d\d:\d\d  train     resuming at step 300\n", plain.getvalue())


@pytest.mark.parametrize(
    "message",
    [
        "Running stage 'train':",
        "> gantry stage train",
        "Updating lock file 'dvc.lock'",
        "Finished in state Ran(type=COMPLETED)",
        "Beginning flow run 'caped-swine' for flow 'pipeline'",
    ],
)
def test_internals_of_prefect_and_dvc_are_not_shown(plain: io.StringIO, message: str) -> None:
    log(TerminalHandler(plain), message)
    assert plain.getvalue() == ""


def test_an_unchanged_stage_is_one_word(plain: io.StringIO) -> None:
    log(TerminalHandler(plain), "Stage 'ingest' didn't change, skipping", stage="ingest")
    assert plain.getvalue().endswith("  ingest    unchanged\n")


def test_a_warning_is_marked_and_the_commands_own_message_is_not_repeated(plain: io.StringIO) -> None:
    handler = TerminalHandler(plain)
    log(handler, "the disk is nearly full", level=logging.WARNING)
    log(handler, "Stage 'train' failed", level=logging.ERROR, shown_by_command=True)
    assert [line.split("  ", 1)[1] for line in plain.getvalue().splitlines()] == [
        "train     warning: the disk is nearly full"
    ]


def test_progress_is_one_live_bar_on_a_terminal(screen: Screen) -> None:
    handler = TerminalHandler(screen)
    log(handler, "[train] 600/3000 steps, 640 images/s, 2 min left")
    log(handler, "[train] 1500/3000 steps, 640 images/s, 1 min left")
    (bar,) = screen.seen()
    assert bar == "train     [############............] 1,500/3,000 steps, 640 images/s, 1 min left"


def test_a_line_goes_above_the_bar_of_its_stage(screen: Screen) -> None:
    handler = TerminalHandler(screen)
    log(handler, "[train] 600/3000 steps, 640 images/s")
    log(handler, "[train] FID 66.17 at step 600")
    line, bar = screen.seen()
    assert line.endswith("train     FID 66.17 at step 600")
    assert bar.startswith("train     [####")


def test_the_bar_is_removed_by_a_line_of_the_next_stage_and_at_the_end(screen: Screen) -> None:
    handler = TerminalHandler(screen)
    log(handler, "[train] 3000/3000 steps, 640 images/s")
    log(handler, "[evaluate] fid: 47.77", stage="evaluate")
    assert screen.seen()[-1] == ""
    log(handler, TQDM, stage="evaluate")
    handler.close()
    assert screen.seen()[-1] == ""


def test_without_a_terminal_progress_is_a_line_every_ten_seconds_and_the_last_one(
    plain: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 100.0, 103.0, 111.0, 111.0, 112.0, 112.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    handler = TerminalHandler(plain)
    for step in (100, 200, 300, 3000):
        log(handler, f"[train] {step}/3000 steps, 640 images/s")
    assert [re.search(r"([\d,]+)/3,000", line)[1] for line in plain.getvalue().splitlines()] == ["100", "300", "3,000"]


def test_bars_of_tqdm_are_parsed_too() -> None:
    progress = Progress(160, 500, "features: generator, 14.26img/s, 00:23 left")
    assert parse_progress(TQDM) == progress
    assert progress.bar().startswith("[#######.................] 160/500 features")
    assert parse_progress("fid: 47.77 [45.72, 49.83]") is None


def test_a_long_stage_name_is_separated_from_its_message(plain: io.StringIO) -> None:
    log(TerminalHandler(plain), "'data/raw/digits.dvc' didn't change, skipping", stage="data/raw/digits.dvc")
    assert plain.getvalue().endswith("  data/raw/digits.dvc unchanged\n")


def test_a_warning_that_begins_like_progress_is_shown(screen: Screen) -> None:
    log(TerminalHandler(screen), "3/4 workers are left", level=logging.WARNING)
    assert screen.seen()[0].endswith("train     warning: 3/4 workers are left")


def test_a_message_that_cannot_be_printed_does_not_fail_the_flow(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    handler = TerminalHandler(closed)
    closed.close()
    log(handler, "resuming at step 300")
    assert "Logging error" in capsys.readouterr().err, "logging reports it"
