"""Session fixtures: one Ray cluster, one Prefect server, caches that tests share, no telemetry."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import pipelines.cli  # noqa: F401  switches telemetry off before anything is imported
from pipelines.runtime.checkout import Checkout

# The same examples each time, on any machine, however busy it is; what was found is kept as a test, not in a folder.
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
    """Side by side (``pytest -n``), what uses the session's cluster or server is one group, so that there is one of each.

    The whole chain as a newcomer runs it starts servers of its own, once for its module: a group beside that one.
    """
    for item in items:
        if item.path.name in ("test_end_to_end.py", "test_installed_package.py"):
            item.add_marker(pytest.mark.xdist_group("chain"))
        elif any(item.get_closest_marker(name) for name in ("ray", "prefect")):
            item.add_marker(pytest.mark.xdist_group("services"))


@pytest.fixture(scope="session", autouse=True)
def _quiet_threads() -> None:
    """Tests run beside Ray and Prefect on few cores: spinning OpenMP threads would starve them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_prefect(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefect makes a folder in the home as soon as it is imported, unless it is given another."""
    os.environ.setdefault("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect-home")))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Derived caches go to the test's own folder, so that no test sees another's; weights stay in the user's cache."""
    if "GANTRY_WEIGHTS_DIR" not in os.environ:
        from gan_core.data import user_cache_dir

        monkeypatch.setenv("GANTRY_WEIGHTS_DIR", str(user_cache_dir() / "weights"))
    monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def weights_file() -> Path:
    """The Inception weights, fetched when needed; skips only where no address can be reached."""
    from gan_core.download.weights import inception_file
    from gan_core.errors import FetchError

    try:
        return inception_file()
    except FetchError as error:
        if "SHA-256" in str(error).split("Check the network")[0]:
            raise  # reached, but the content is wrong: that is a failure
        pytest.skip(f"the Inception weights cannot be fetched here: {error}")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's Ray cluster of 2 CPUs; its address. Ended with the session."""
    from pipelines.runtime.cluster import cluster

    with cluster(Checkout.at(tmp_path_factory.mktemp("ray")), num_cpus=2, log_to_driver=False) as address:
        yield address


@pytest.fixture(scope="session")
def _prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    from pipelines.flow.server import server
    from pipelines.flow.web import own_auth

    root = tmp_path_factory.mktemp("prefect")
    with server(Checkout.at(root)) as url:
        yield url, own_auth(Checkout.at(root))
        # What Prefect still has to send would be tried for a minute against a server that is gone.
        from pipelines.flow.flow import flush

        flush()


@pytest.fixture
def prefect_api(_prefect_server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the session's Prefect server, with this process and its children set to use it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    url, auth = _prefect_server
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", auth)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
        yield url
