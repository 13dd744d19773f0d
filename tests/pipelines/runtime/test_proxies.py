"""Connections to this machine's own servers do not use a proxy."""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.runtime.proxies import local_addresses, proxy_exclusions
from tests.pipelines.toy import CHECKOUT, environment

EXCLUSIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


def test_without_a_proxy_nothing_is_set():
    assert proxy_exclusions({"no_proxy": "example.org"}) == {}


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"])
def test_loopback_is_added_to_the_users_exclusions_in_each_variable(name):
    known = {
        name: "http://proxy:3128",
        "no_proxy": "a.org, .b.org",
        "NO_PROXY": "a.org,c.org",
        "no_grpc_proxy": "d.org",
    }
    expected = "a.org,.b.org,c.org,d.org,localhost,127.0.0.1,::1"
    assert proxy_exclusions(known) == dict.fromkeys(EXCLUSIONS, expected)


def test_excluding_every_host_is_kept():
    assert proxy_exclusions({"http_proxy": "http://proxy", "no_proxy": "*"}) == dict.fromkeys(EXCLUSIONS, "*")


def test_the_head_of_a_named_cluster_and_this_machines_addresses_are_excluded():
    known = {"http_proxy": "http://proxy", "RAY_ADDRESS": "ray://head.example:10001"}
    excluded = proxy_exclusions(known)["no_proxy"].split(",")
    assert "head.example" in excluded
    assert set(local_addresses()) <= set(excluded)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *_: object) -> None:
        pass


ASKS = """
import sys, urllib.request
from pipelines.runtime.environment import set_up_environment
set_up_environment()
import requests, httpx
url = sys.argv[1]
print(urllib.request.urlopen(url, timeout=5).status)
print(requests.get(url, timeout=5).status_code)
print(httpx.get(url, timeout=5).status_code)
"""


def test_health_checks_bypass_a_dead_proxy():
    """Of all three clients: Gantry's own checks, MLflow and Prefect."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as black_hole:  # takes connections and never says a word
        proxy = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        known = environment(http_proxy=proxy, HTTP_PROXY=proxy, https_proxy=proxy, all_proxy=proxy)
        for name in EXCLUSIONS:
            known.pop(name, None)
        command = [sys.executable, "-c", ASKS, f"http://127.0.0.1:{server.server_port}/health"]
        done = subprocess.run(command, env=known, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    server.shutdown()
    server.server_close()
    assert done.stdout.split() == ["200", "200", "200"], done.stderr[-2000:]
