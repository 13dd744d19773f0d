"""On hosts with all services nothing is open to others, nobody gets in without a password, and no secret can be seen."""

import base64
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.hosts import mlflow_server, prefect_server
from infra.hosts.hosts import SERVICES
from infra.hosts.postgres import PORT as POSTGRES_PORT

pytestmark = pytest.mark.hosts

# Calls that Ray's programs answer; a raylet listens on one port for each of its two.
CALLS = {
    "gcs_server": ["NodeInfoGcsService/GetAllNodeInfo"],
    "raylet": ["NodeManagerService/GetNodeStats", "ObjectManagerService/Pull"],
    "ray::": ["CoreWorkerService/GetCoreWorkerStats"],
}
UNKNOWN, UNAUTHENTICATED = "12", "16"
# A call by gRPC without a token; prints the status of the answer.
CALL = """
import os, httpx
with httpx.Client(http1=False, http2=True, timeout=20) as client:
    headers = {"content-type": "application/grpc", "te": "trailers"}
    answer = client.post(os.environ["URL"], headers=headers, content=bytes(5))
    print(answer.headers.get("grpc-status"))
"""


def python(host, program, environment=None, check=True):
    """Run a program on ``host``; returns what it prints."""
    return host.run([sys.executable, "-c", program], environment=environment, check=check).stdout


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def status(host, address, path, environment=None):
    """HTTP status of a GET of ``path``, from ``host``."""
    program = (
        "import urllib.request, urllib.error\n"
        f"try: print(urllib.request.urlopen('{address}{path}', timeout=30).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    return int(python(host, program, environment))


def listening(host):
    """Address, port and program of each listening socket of ``host``."""
    for line in host.run(["ss", "-Htulnp"]).stdout.splitlines():
        address, _, port = line.split()[4].rpartition(":")
        yield address, int(port), re.findall(r'"([^"]+)"', line)[0]


def test_servers_listen_on_loopback_and_on_the_address_of_their_host_alone(everything):
    """Ray's own listen on all addresses of their host, for which Ray 2.60 has no setting; each asks for the token."""
    opened = {}
    for name, host in everything.hosts.items():
        for address, port, program in listening(host):
            if address not in ("127.0.0.1", "[::1]", host.address):
                opened[f"{host.address}:{port}"] = "ray::" if program.startswith("ray::") else program
                assert name in ("a", "b", "c"), (name, address, port, program)
    assert set(opened.values()) <= set(CALLS)
    # The control store, and a node manager and an object manager on each of three hosts.
    assert len(opened) >= 7
    for place, program in opened.items():
        given = {
            python(everything.hosts["d"], CALL, {"URL": f"http://{place}/ray.rpc.{call}"}).strip()
            for call in CALLS[program]
        }
        assert given - {UNKNOWN} == {UNAUTHENTICATED}, (place, program, given)


def test_prefect_and_mlflow_refuse_those_without_a_password(everything):
    services, outside = everything.services, everything.hosts["d"]
    assert status(outside, services.mlflow.uri, "/api/2.0/mlflow/experiments/get?experiment_id=0") == 401
    assert status(outside, services.mlflow.uri, "/api/2.0/mlflow-artifacts/artifacts") == 401
    assert status(outside, services.prefect.uri, "/api/work_pools/none") == 401
    assert status(outside, services.prefect.uri, "/api/admin/settings") == 401


def test_this_machine_reaches_the_pages_with_a_password(everything):
    services = everything.services
    login = "{MLFLOW_TRACKING_USERNAME}:{MLFLOW_TRACKING_PASSWORD}".format(**services.mlflow.client)
    basic = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(services.mlflow.uri, headers=basic), timeout=60) as page:
        assert b"<title>MLflow</title>" in page.read()
    with opener.open(services.prefect.uri, timeout=60) as page:
        assert b"<title>Prefect" in page.read()


def test_mlflow_refuses_an_unknown_host_name(everything):
    """A page that an attacker's name resolves to (DNS rebinding)."""
    program = (
        "import http.client\n"
        f"connection = http.client.HTTPConnection('{everything.hosts[SERVICES].address}', {mlflow_server.PORT})\n"
        "connection.request('GET', '/api/2.0/mlflow/experiments/get?experiment_id=0', headers={'Host': 'evil.example'})\n"
        "print(connection.getresponse().status)"
    )
    assert int(python(everything.hosts["d"], program)) == 403


def test_ray_refuses_a_driver_and_a_node_without_the_token(everything):
    program = "import ray; ray.init(log_to_driver=False); print(ray.cluster_resources())"
    names = ("PATH", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED")
    right = {name: everything.environment[name] for name in names}
    node, outside = everything.hosts["b"], everything.hosts["d"]
    assert "'CPU': 2.0" in python(node, program, right)
    join = ["ray", "start", f"--address={right['RAY_ADDRESS']}", f"--node-ip-address={outside.address}"]
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        with ThreadPoolExecutor() as pool:  # both wait for Ray most of the time
            driver = pool.submit(python, node, program, right | wrong, check=False)
            joined = outside.run(join, environment=without(right | wrong, "RAY_ADDRESS"), check=False)
        assert "AuthenticationError" in driver.result(), driver.result()
        assert "'CPU'" not in driver.result()
        assert joined.returncode, joined.stdout


def test_a_key_of_s3_opens_its_own_bucket_alone(everything):
    program = (
        "import sys, obstore; from obstore.store import from_url\n"
        "store = from_url(f's3://{sys.argv[1]}', client_options={'allow_http': True}, retry_config={'max_retries': 0})\n"
        "obstore.put(store, 'x', b'1'); print(bytes(obstore.get(store, 'x').bytes()))"
    )
    s3, outside = everything.services.s3, everything.hosts["d"]

    def put(bucket, environment):
        return outside.run([sys.executable, "-c", program, bucket], environment=environment, check=False)

    assert put("gantry", s3.client("gantry")).stdout == "b'1'\n"
    for bucket, environment in (
        ("mlflow", s3.client("gantry")),
        ("gantry", s3.client("mlflow")),
        ("gantry", s3.client("gantry") | {"AWS_SECRET_ACCESS_KEY": "wrong"}),
        (
            "gantry",
            without(s3.client("gantry"), "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") | {"AWS_SKIP_SIGNATURE": "1"},
        ),
    ):
        refused = put(bucket, environment)
        assert refused.returncode
        assert "PermissionDenied" in refused.stdout or "Unauthenticated" in refused.stdout


@pytest.mark.parametrize(
    ("role", "database", "password", "answer"),
    [
        ("mlflow", "mlflow", "own", "let in"),
        ("mlflow", "prefect", "own", "permission denied for database"),
        ("prefect", "mlflow", "own", "permission denied for database"),
        ("prefect", "postgres", "own", "permission denied for database"),
        ("prefect", "prefect", "wrong", "password authentication failed"),
        ("postgres", "postgres", "wrong", "password authentication failed"),
    ],
)
def test_a_role_of_postgres_opens_its_own_database_alone(everything, role, database, password, answer):
    address = f"postgresql://{role}@{everything.hosts[SERVICES].address}:{POSTGRES_PORT}/{database}"
    secret = everything.services.postgres.passwords[role] if password == "own" else "wrong"
    program = f"import psycopg2; psycopg2.connect('{address}'); print('let in')"
    assert answer in python(everything.hosts["d"], program, {"PGPASSWORD": secret}, check=False)


@pytest.mark.parametrize("role", [mlflow_server.ROLE, prefect_server.ROLE])
def test_a_role_of_postgres_can_create_neither_databases_nor_roles(everything, role):
    address = f"postgresql://{role}@{everything.hosts[SERVICES].address}:{POSTGRES_PORT}/{role}"
    program = (
        f"import psycopg2; cursor = psycopg2.connect('{address}').cursor()\n"
        "cursor.execute('SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user')\n"
        "print(cursor.fetchone())"
    )
    secret = everything.services.postgres.passwords[role]
    assert python(everything.hosts["d"], program, {"PGPASSWORD": secret}) == "(False, False, False)\n"


def test_no_secret_is_in_a_command_line_an_environment_of_another_user_or_a_log(everything, logs):
    secrets = [*everything.services.secrets, everything.environment["RAY_AUTH_TOKEN"]]
    assert len(secrets) == 8
    read = 0
    for name, host in everything.hosts.items():
        for process in host.files("/proc").glob("[0-9]*"):
            try:
                places = ["cmdline"] if process.stat().st_uid == 0 else ["cmdline", "environ"]
                contents = {place: (process / place).read_text(errors="replace") for place in places}
            except (OSError, ProcessLookupError):
                continue  # it has ended
            read += 1
            for place, content in contents.items():
                assert not any(secret in content for secret in secrets), f"{name}: {place} of {contents['cmdline']!r}"
    assert read > 20
    ray = [file for host in everything.hosts.values() for file in host.files("/tmp/ray").rglob("*.*") if file.is_file()]
    files: list[Path] = [file for file in (*logs.iterdir(), *ray) if file.suffix in (".log", ".out", ".err")]
    assert len(files) > 10
    for file in files:
        content = file.read_text(errors="replace")
        assert not any(secret in content for secret in secrets), file
