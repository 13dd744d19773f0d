"""Child processes of the flow: their output, time limits and end."""

import os
import signal
import sys
import threading
import time

import pytest

from pipelines.flow import process
from pipelines.flow.process import ProcessStoppedError, ProcessTimeoutError, run_streaming
from tests.pipelines.toy import environment, running, wait_for

SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"


def _stream(code, tmp_path, on_line, **options):
    command = [sys.executable, "-c", code]
    return run_streaming(command, cwd=tmp_path, environment=environment(), on_line=on_line, **options)


def test_lines_arrive_at_once_and_the_exit_status_is_returned(tmp_path):
    lines = []
    code = "import sys, time; print('one', flush=True); time.sleep(1); print('\\x1b[32mtwo\\x1b[0m', file=sys.stderr); exit(3)"
    status = _stream(code, tmp_path, lambda line: lines.append((line, time.monotonic())))
    assert status == 3
    assert [line for line, _ in lines] == ["one", "two"]
    assert lines[1][1] - lines[0][1] > 0.5


def test_a_progress_bar_becomes_a_few_lines_and_its_last_state(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "PROGRESS_SECONDS", 60.0)
    lines = []
    code = "import time\nfor i in range(50): print(f'\\r{i}/49', end='', flush=True); time.sleep(0.01)\nprint()\nprint('done')"
    _stream(code, tmp_path, lines.append)
    assert lines[-2:] == ["49/49", "done"]
    assert len(lines) <= 4


def test_the_stop_event_ends_the_process(tmp_path):
    lines, stop = [], threading.Event()
    threading.Thread(target=lambda: (wait_for(lambda: lines), stop.set())).start()
    with pytest.raises(ProcessStoppedError):
        _stream(SLEEPER, tmp_path, lines.append, stop=stop)
    assert not running(int(lines[0]))


def test_a_process_that_exceeds_its_time_limit_is_ended(tmp_path):
    lines = []
    with pytest.raises(ProcessTimeoutError, match="exceeded its time limit of 2 s"):
        _stream(SLEEPER, tmp_path, lines.append, timeout_s=2)
    assert not running(int(lines[0]))


def test_an_exception_while_reading_ends_the_process(tmp_path):
    pids = []

    def fail(line):
        pids.append(int(line))
        os.kill(pids[0], 0)
        raise KeyError("the reader's own")

    with pytest.raises(KeyError, match="the reader's own"):
        _stream(SLEEPER, tmp_path, fail)
    assert not running(pids[0])


def test_a_swallowed_interrupt_still_ends_the_process(tmp_path):
    pids = []

    def swallow(line):
        pids.append(int(line))
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            pass

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _stream(SLEEPER, tmp_path, swallow)
    assert not running(pids[0])
    assert signal.getsignal(signal.SIGINT) is before
