"""A storage of each kind: a folder, and buckets of the session's own of an S3 server, Azurite, and a stand-in for Google's."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.storage.objects import Storage
from tests.azure_server import AzureServer, azure_server
from tests.gcs_server import GoogleServer, google_server
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with azure_server(tmp_path_factory.mktemp("az")) as server:
        yield server


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleServer]:
    with google_server(tmp_path_factory.mktemp("gs")) as server:
        yield server


@pytest.fixture(params=["file", "s3", "az", "gs"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty storage."""
    if request.param == "file":
        return Storage(f"file://{tmp_path}/storage", patience=5)
    server: S3Server | AzureServer | GoogleServer = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = server.container if isinstance(server, AzureServer) else server.bucket
    return Storage(f"{request.param}://{bucket}/{uuid.uuid4().hex}", patience=5)
