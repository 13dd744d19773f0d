"""One process of a checkout serves a deployment."""

import os
import uuid
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from gan_core.errors import StageError
from pipelines.flow.serving import drop_outdated_runs, only_server, served_description
from pipelines.runtime.checkout import Checkout


def test_one_process_serves_a_deployment(tmp_path):
    checkout = Checkout.at(tmp_path)
    with only_server(checkout, "nightly"):
        message = rf"pipeline/nightly of {tmp_path} \(process {os.getpid()}, since .*choose another name"
        with pytest.raises(StageError, match=message), only_server(checkout, "nightly"):
            pass
        with only_server(checkout, "weekly / of Jürgen"):
            pass
    with only_server(checkout, "nightly"):
        assert str(tmp_path) in served_description(checkout)


def test_runs_that_an_earlier_gantry_serve_has_left_do_not_run_with_its_settings(monkeypatch, caplog):
    """A stand-in for the server, whose scheduler would take minutes to leave such runs."""

    def waiting(name: str, steps: int, **more: Any) -> SimpleNamespace:
        parameters = {"revision": "HEAD", "overrides": {"train.steps": steps}}
        return SimpleNamespace(**{"id": name, "auto_scheduled": True, "run_count": 0, "parameters": parameters, **more})

    runs = [
        waiting("outdated", 100),
        waiting("missed", 200),
        waiting("ordered", 100, auto_scheduled=False),
        waiting("taken up again", 100, run_count=1),
        waiting("on the next page", 100),
    ]
    deleted: list[str] = []

    def read(*, limit: int, offset: int, **_: Any) -> list[SimpleNamespace]:
        return runs[offset : offset + min(limit, 4)]

    client = SimpleNamespace(read_flow_runs=read, delete_flow_run=deleted.append)
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: nullcontext(client))
    drop_outdated_runs(uuid.uuid4(), {"revision": "HEAD", "overrides": {"train.steps": 200}})
    assert deleted == ["outdated", "on the next page"]
    assert "2 run(s) that came due while nothing served the deployment are dropped" in caplog.text
