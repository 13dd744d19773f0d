"""The doctor: each check names what it found and, where something is wrong, what to do."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.commands import doctor as module
from pipelines.commands.doctor import doctor
from tests.pipelines.flow.test_web import answering as answering_with
from tests.pipelines.toy import CHECKOUT

Examine = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Run ``gantry doctor --json`` in a folder: its exit status, and the findings by the name of the check."""

    def call(root: Path, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
        monkeypatch.chdir(root)
        for name in ("PREFECT_API_URL", "RAY_ADDRESS", "MLFLOW_TRACKING_URI", "GANTRY_TRACKING_URI"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = CliRunner().invoke(doctor, ["--json"])
        return done.exit_code, {finding["check"]: finding for finding in json.loads(done.stdout)}

    return call


def test_a_checkout_has_no_problem(examine: Examine) -> None:
    status, found = examine(CHECKOUT)
    assert {name for name, finding in found.items() if finding["status"] == "problem"} <= {"disk"}
    assert "torch 2." in found["packages"]["found"]
    assert str(CHECKOUT) in found["project"]["found"]
    assert status == (1 if found["disk"]["status"] == "problem" else 0)


def test_a_folder_without_a_project_is_a_problem_with_a_remedy(examine: Examine, tmp_path: Path) -> None:
    status, found = examine(tmp_path)
    assert status == 1
    assert found["project"] == {
        "check": "project",
        "status": "problem",
        "found": f"there is no dvc.yaml in {tmp_path}",
        "remedy": "Run gantry doctor in the root folder of a Gantry project.",
    }
    assert "git init" in found["git"]["remedy"]


def test_unreadable_settings_are_one_problem_and_the_other_checks_run(examine: Examine, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("tain: {}\n")
    status, found = examine(tmp_path)
    assert status == 1
    assert "train" in found["project"]["found"]
    assert found["memory"]["status"] in ("ok", "note")


def test_an_unreachable_server_is_a_problem_shown_without_its_password(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]  # nobody listens there once it is closed
    status, found = examine(
        CHECKOUT,
        PREFECT_API_URL=f"http://user:s3cr3t-word@127.0.0.1:{port}/api",
        RAY_ADDRESS=f"ray://127.0.0.1:{port}",
    )
    assert status == 1
    assert found["prefect"]["status"] == found["ray"]["status"] == "problem"
    assert "refused" in found["prefect"]["found"].lower()
    assert "s3cr3t" not in json.dumps(found)
    assert "RAY_ADDRESS" in found["ray"]["remedy"]


def test_another_service_at_the_address_of_a_server_is_a_problem(examine: Examine) -> None:
    with answering_with(lambda path: (200, "true")) as healthy, answering_with(lambda path: (200, "{}")) as other:
        _, found = examine(CHECKOUT, PREFECT_API_URL=f"{healthy}/api", MLFLOW_TRACKING_URI=other)
    assert found["prefect"]["status"] == "ok"
    assert found["mlflow"]["status"] == "problem"
    assert found["mlflow"]["found"] == f"{other}: another service answers"


def test_an_unsupported_version_of_a_package_is_a_problem(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.importlib.metadata.version
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "1.0" if name == "prefect" else real(name))
    _, found = examine(CHECKOUT)
    assert found["packages"]["status"] == "problem"
    assert "prefect is 1.0, but Gantry needs ==3.8.8" in found["packages"]["found"]


def test_little_free_disk_space_is_a_problem(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runtime.cluster_check.TOO_LITTLE", 2**60)
    status, found = examine(CHECKOUT)
    assert status == 1
    assert found["disk"]["status"] == "problem"
    assert "free on" in found["disk"]["found"]


def test_an_address_of_ray_that_is_none_is_a_problem_and_no_bug() -> None:
    assert str(module._refused("head:abc")).startswith("it is not HOST:PORT (")


def test_memory_that_the_limit_of_a_container_leaves_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_core.memory._cgroup_memory", lambda: [2 << 30])
    (found,) = module._memory()
    assert (found.status, found.found[:7]) == ("note", "2.0 GiB")
    assert "raise the memory limit of the container" in found.remedy
