"""PostgreSQL on a host, with a role and databases of its own for each server that uses it."""

import pwd
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.hosts.hosts import Host, HostsError
from infra.hosts.server import Server, accepts, write_secret

PORT = 5432
_USER = "postgres"
_VERSIONS = Path("/usr/lib/postgresql")
_DATA, _SOCKET, _ROLES = "/var/lib/gantry-postgres", "/run/gantry-postgres", "/etc/gantry-postgres/roles.sql"


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    server: Server
    passwords: dict[str, str]
    """By role."""


def start_postgres(host: Host, databases: dict[str, Sequence[str]], log: Path) -> Postgres:
    """Start PostgreSQL on ``host``, as the system's user postgres.

    Args:
        host: where to start it.
        databases: names by role. A role owns its databases and can do nothing else.
        log: file on this machine for its output.

    Raises:
        HostsError: the package is not installed, or the server does not start.
    """
    programs, user = find_postgres()
    passwords = {role: secrets.token_hex(16) for role in databases}
    host.run(["install", "-d", "-o", _USER, "-m", "700", _DATA, _SOCKET])
    as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
    made = ["--auth-local=peer", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]
    host.run([*as_user, f"{programs}/initdb", "-D", _DATA, *made])
    with host.files(f"{_DATA}/pg_hba.conf").open("a") as file:
        file.write(f"host all all {host.address.rpartition('.')[0]}.0/24 scram-sha-256\n")
    settings = {"listen_addresses": host.address, "unix_socket_directories": _SOCKET, "max_connections": "200"}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    server = Server(
        "PostgreSQL",
        host,
        [*as_user, f"{programs}/postgres", "-D", _DATA, *words],
        ready=lambda: accepts(host, PORT),
        log=log,
    )
    write_secret(host, _ROLES, _sql(databases, passwords), owner=user)
    host.run([*as_user, f"{programs}/psql", "-h", _SOCKET, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", _ROLES])
    host.files(_ROLES).unlink()
    return Postgres(server, passwords)


def _sql(databases: dict[str, Sequence[str]], passwords: dict[str, str]) -> str:
    lines = ["REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;"]
    for role, names in databases.items():
        lines.append(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{passwords[role]}';")
        for name in names:
            lines += [f"CREATE DATABASE {name} OWNER {role};", f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"]
            # Prefect's search by name needs it, and its role may not create it.
            lines += [f"\\connect {name}", "CREATE EXTENSION IF NOT EXISTS pg_trgm;", "\\connect postgres"]
    return "\n".join(lines) + "\n"


def find_postgres() -> tuple[Path, int]:
    """Folder of PostgreSQL's programs, of the newest version if there are several, and the id of the user who runs it.

    Raises:
        HostsError: the package is not installed.
    """
    found = sorted(_VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        raise HostsError("PostgreSQL is missing: install Debian's package postgresql.")
    try:
        return Path(program).parent, pwd.getpwnam(_USER).pw_uid
    except KeyError:
        raise HostsError(f"There is no user '{_USER}': install Debian's package postgresql.") from None
