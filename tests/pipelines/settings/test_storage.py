"""A storage is named by a URI without credentials, in params.yaml or in the environment."""

import pytest

from gan_core.errors import SettingsError
from pipelines.settings.storage import StorageSettings, check_storage_uri


def test_the_environment_takes_precedence(monkeypatch):
    monkeypatch.delenv("GANTRY_STORAGE_URI", raising=False)
    assert StorageSettings().resolve_uri() == ""
    assert StorageSettings(uri="s3://bucket/a").resolve_uri() == "s3://bucket/a"
    monkeypatch.setenv("GANTRY_STORAGE_URI", "file:///shared/b")
    assert StorageSettings(uri="s3://bucket/a").resolve_uri() == "file:///shared/b"
    monkeypatch.setenv("GANTRY_STORAGE_URI", "shared")
    with pytest.raises(SettingsError, match="environment variable GANTRY_STORAGE_URI: 'shared' is not a storage"):
        StorageSettings().resolve_uri()


@pytest.mark.parametrize("values", [{"uri": "bucket"}, {"cache_gib": 0}])
def test_other_values_are_refused_by_name(values):
    with pytest.raises(SettingsError, match=next(iter(values))):
        StorageSettings(**values)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("bucket/prefix", "is not a storage. Use file:///folder"),
        ("file://relative/folder", "is not a storage"),
        ("http://host/x", "is not a storage"),
        ("s3://", "is not a storage"),
        ("s3://key:s3cr3t@bucket/x", "must not contain credentials"),
        ("s3://bucket/x?endpoint_override=host", "must not contain credentials or options"),
    ],
)
def test_what_is_no_storage_is_refused_without_showing_secrets(uri, message):
    with pytest.raises(SettingsError, match=message) as caught:
        check_storage_uri(uri, "storage.uri")
    assert "s3cr3t" not in str(caught.value)
