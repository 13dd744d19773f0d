"""Session fixtures: a Ray cluster, a Prefect server, the environment, the Inception weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from pipelines.flow.server import Connection, connect_prefect
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.environment import DEFAULTS, set_up_environment

# Before test modules import libraries that read them. Tests call parts of a flow outside a flow run, too.
os.environ.update({"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore", **DEFAULTS, **os.environ})

# Hypothesis uses the same examples every time, without time limits. A failing example becomes a test, not a database entry.
settings.register_profile(
    "gantry",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gantry")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for ``pytest -n``: all tests that use the session's cluster or server run in the same worker.

    The end-to-end tests start their own servers, once per module, and form a second group; so do the tests on hosts.
    """
    for item in items:
        if item.path.name in ("test_end_to_end.py", "test_installed_package.py"):
            item.add_marker(pytest.mark.xdist_group("chain"))
        elif any(item.get_closest_marker(name) for name in ("ray", "prefect")):
            item.add_marker(pytest.mark.xdist_group("services"))
        elif item.get_closest_marker("hosts"):
            item.add_marker(pytest.mark.xdist_group("hosts"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let tests that run side by side use one thread each."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set up the environment as every command does, except that Prefect's home is a temporary folder."""
    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect-home")))
    set_up_environment()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give each test its own cache folder; only weights stay in the user's cache."""
    if "GANTRY_WEIGHTS_DIR" not in os.environ:
        from gan_core.cache import user_cache_dir

        monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(user_cache_dir() / "weights"))
    monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def weights_file() -> Path:
    """The Inception weights, fetched if missing. Skips the test only if no address can be reached."""
    from gan_core.download.weights import inception_file
    from gan_core.errors import FetchError

    try:
        return inception_file()
    except FetchError as error:
        if "SHA-256" in str(error).split("Check the network")[0]:
            raise  # an address was reached, but its content is wrong
        pytest.skip(f"the Inception weights cannot be fetched here: {error}")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's Ray cluster with 2 CPUs."""
    from pipelines.runtime.cluster import ray_cluster

    with ray_cluster(Checkout.at(tmp_path_factory.mktemp("ray")), num_cpus=2, log_to_driver=False) as address:
        yield address


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with connect_prefect(Checkout.at(tmp_path_factory.mktemp("prefect"))) as connection, connection.clients():
        yield connection


@pytest.fixture
def prefect_api(prefect_server: Connection, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the session's Prefect server; configures this process and its children to use it."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, prefect_server.environment()[name])
    return prefect_server.url
