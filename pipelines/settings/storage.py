"""Settings of the storage that several hosts share."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gan_core.config import check
from gan_core.errors import SettingsError
from pipelines.settings.secrets import has_secret

VARIABLE = "GANTRY_STORAGE_URI"
SCHEMES = ("file", "s3", "gs", "az")


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """The storage that several hosts share. One machine needs none."""

    uri: str = ""
    """Where hosts without a shared disk exchange what the stages need and make: file:///folder (shared by all),
    s3://bucket/prefix, gs://bucket/prefix or az://container/prefix. Credentials and endpoint come from the environment of each
    host. The environment variable GANTRY_STORAGE_URI takes precedence."""
    cache_gib: float = 50.0
    """Largest size of the cache of prepared data on each host, in GiB. Data that is larger is streamed (train.feed), through a
    cache of its own of this size; raw files with many pictures have another one in ingestion."""

    def __post_init__(self) -> None:
        if self.uri:
            check_storage_uri(self.uri, "uri")
        check(self.cache_gib > 0, f"cache_gib: must be above 0, got {self.cache_gib}.")

    def resolve_uri(self) -> str:
        """The URI from the environment or from params.yaml; empty without a storage.

        Raises:
            SettingsError: the one from the environment names no storage.
        """
        if named := os.environ.get(VARIABLE, ""):
            check_storage_uri(named, f"environment variable {VARIABLE}")
        return named or self.uri


def check_storage_uri(uri: str, what: str) -> None:
    """Raise SettingsError unless ``uri`` names a storage; the message begins with ``what``."""
    parts = urlsplit(uri)
    if has_secret(uri) or parts.username or parts.query:
        raise SettingsError(
            f"{what} must not contain credentials or options: they belong in the environment of each host "
            "(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...)."
        )
    whole = parts.path.startswith("/") and not parts.netloc if parts.scheme == "file" else bool(parts.netloc)
    if parts.scheme not in SCHEMES or not whole or re.search(r"[\s\\]", uri):
        raise SettingsError(
            f"{what}: '{uri}' is not a storage. Use file:///folder (one that all hosts share), s3://bucket/prefix, "
            "gs://bucket/prefix or az://container/prefix."
        )
