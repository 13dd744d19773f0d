"""What a run recorded is read from its log, or from the server once the log is gone."""

import json
import shutil

from pipelines.tracking import RunLog, sync
from pipelines.tracking.events import log_folder
from pipelines.tracking.facts import find_facts, read_facts, working_seconds


def record(folder):
    with RunLog(folder, key="a", name="a", tags={"host": "one"}) as log:
        log.log_params({"train": {"batch": 64, "kind": "ada"}})
        for step, value in enumerate((3.0, 2.0)):
            log.log_metrics({"fid": value}, step)
        log.set_tags({"host": "two"})


def test_the_log_and_the_server_say_the_same(tmp_path, uri):
    record(tmp_path)
    local = read_facts(log_folder(tmp_path, "a"))
    assert local.params == {"train.batch": "64", "train.kind": "ada"}
    assert local.metrics == {"fid": 2.0}
    assert local.tags["host"] == "two"
    sync(tmp_path, tracking_uri=uri, experiment="tests")
    shutil.rmtree(log_folder(tmp_path, "a"))
    remote = find_facts(tmp_path, "a", tracking_uri=uri, experiment="tests")
    assert remote is not None
    assert (remote.params, remote.metrics, remote.tags["host"]) == (local.params, local.metrics, "two")


def test_a_run_that_nobody_knows_has_no_facts(tmp_path, uri, caplog):
    assert find_facts(tmp_path, "a", tracking_uri=uri, experiment="tests") is None
    assert not caplog.records
    assert find_facts(tmp_path, "a", tracking_uri="http://127.0.0.1:9", experiment="tests") is None
    assert "What run a recorded is not known here" in caplog.text


def test_pauses_between_attempts_do_not_count(tmp_path):
    events = [
        {"kind": "open", "time": 1000, "parent": "p"},
        {"kind": "open", "time": 31_000, "parent": None},  # a worker, which took half a minute to start
        {"kind": "metrics", "time": 41_000},
        {"kind": "open", "time": 999_000, "parent": "p"},  # started again after a kill
        {"kind": "finish", "time": 1_009_000},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert working_seconds(tmp_path) == 50
