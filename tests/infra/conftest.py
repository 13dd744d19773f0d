"""Hosts with all services, once for each module of tests that uses them: idle servers slow the tests of others down."""

from collections.abc import Iterator

import pytest

from gan_core.errors import FetchError
from infra.hosts.cluster import Cluster, cluster
from infra.hosts.driver import copy_weights
from infra.hosts.hosts import HostsError, check_machine
from infra.hosts.services import check_packages


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory):
    """Folder of the services' output."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def everything(logs) -> Iterator[Cluster]:
    """Host ``a`` drives, ``b`` and ``c`` train with one CPU each, and nothing runs on ``d`` and ``alone``."""
    from gan_core.download.weights import inception_file

    try:
        check_machine()
        check_packages()
    except HostsError as missing:
        pytest.skip(str(missing))
    with cluster(["b", "c"], logs, cpus=1, subnet="10.87.0", others=["d", "alone"], reachable=True) as made:
        try:
            copy_weights(made.driver, inception_file())
        except FetchError as error:
            pytest.skip(f"the Inception weights cannot be fetched here: {error}")
        yield made
