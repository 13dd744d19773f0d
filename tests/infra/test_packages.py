"""What a machine lacks for the services is named, with the package to install."""

import pytest

from infra.hosts import postgres, services
from infra.hosts.hosts import HostsError


@pytest.fixture
def without_postgres(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_machine_without_postgres_is_told_which_package_has_it(without_postgres):
    with pytest.raises(HostsError, match="PostgreSQL is missing: install Debian's package postgresql"):
        services.check_packages()


def test_the_newest_version_of_postgres_is_used(monkeypatch, tmp_path):
    for version in ("9", "15", "16"):
        (tmp_path / version / "bin").mkdir(parents=True)
        (tmp_path / version / "bin" / "initdb").touch()
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    monkeypatch.setattr(postgres, "_USER", "root")
    assert postgres.find_postgres() == (tmp_path / "16" / "bin", 0)


def test_a_machine_without_the_user_of_postgres_is_told_which_package_makes_it(monkeypatch, tmp_path):
    (tmp_path / "15" / "bin").mkdir(parents=True)
    (tmp_path / "15" / "bin" / "initdb").touch()
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    monkeypatch.setattr(postgres, "_USER", "nobody-of-this-name")
    with pytest.raises(HostsError, match="no user 'nobody-of-this-name': install Debian's package postgresql"):
        postgres.find_postgres()


def test_missing_python_packages_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr(services, "find_postgres", lambda: None)
    monkeypatch.setattr(services, "_PACKAGES", ("json", "no_such_package"))
    with pytest.raises(HostsError, match=r"missing \(no_such_package\): .*extras 'cluster' and 'dev'"):
        services.check_packages()
