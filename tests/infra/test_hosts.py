"""Hosts on one machine share no files and no processes, reach each other by name, and leave nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.hosts.hosts import HostsError, check_machine, hosts

try:
    check_machine()
except HostsError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.hosts

SUBNET = "10.79.0"
GET = "import sys, urllib.request as u; print(u.urlopen(f'http://{sys.argv[1]}:8000/', timeout=3).read().decode())"


@pytest.fixture(scope="module")
def pair():
    with hosts(["a", "b"], SUBNET) as made:
        yield made


def test_a_host_has_its_own_name_address_and_processes(pair):
    shown = (
        pair["a"]
        .run(["sh", "-c", "hostname; ip -4 -brief address show eth0; ls /proc | grep -c '^[0-9]'"])
        .stdout.split()
    )
    assert shown[0] == "a"
    assert f"{SUBNET}.1/24" in shown
    assert int(shown[-1]) < 10


def test_what_a_host_writes_is_seen_by_no_other_and_not_by_this_machine(pair):
    pair["a"].run(["sh", "-c", "echo mine > /opt/of-a; echo mine > /tmp/of-a; echo mine > $HOME/of-a"])
    assert pair["a"].files("/opt/of-a").read_text() == "mine\n"
    for path in ("/opt/of-a", "/tmp/of-a", "/root/of-a"):
        assert not pair["b"].files(path).exists()
        assert not Path(path).exists()


def test_this_checkout_home_and_temporary_files_are_hidden_but_the_packages_are_there(pair, tmp_path):
    checkout = Path(__file__).parents[2]
    for path in (checkout / "pipelines", tmp_path):
        assert not pair["a"].files(str(path)).exists()
    found = pair["a"].run([sys.executable, "-c", "import numpy; print('numpy is here')"]).stdout
    assert "numpy is here" in found
    refused = pair["a"].run(["touch", f"{sys.prefix}/x"], check=False)
    assert "Read-only" in refused.stdout


def test_hosts_reach_each_other_by_name_until_one_is_cut_off(pair):
    server = pair["a"].start(["sh", "-c", "cd /tmp; echo hello > index.html; exec python3 -m http.server 8000"])
    ask = [sys.executable, "-c", GET]
    try:
        for _ in range(50):
            if not pair["a"].run([*ask, "localhost"], check=False).returncode:
                break
        assert "hello" in pair["b"].run([*ask, "a"]).stdout
        pair["a"].cut()
        assert "timed out" in pair["b"].run([*ask, "a"], check=False).stdout
        assert "hello" in pair["a"].run([*ask, "localhost"]).stdout
        pair["a"].heal()
        assert "hello" in pair["b"].run([*ask, "a"]).stdout
    finally:
        server.kill()
        server.wait()


def test_a_killed_host_ends_with_everything_in_it_and_nothing_is_left():
    before = namespaces()
    with hosts(["a"], "10.78.0") as made:
        sleeping = made["a"].start(["sh", "-c", "setsid sleep 1000 & exec sleep 1000"])
        assert made["a"].alive
        made["a"].kill()
        assert sleeping.wait(10) != 0
        assert not made["a"].alive
        assert made["services"].run(["hostname"]).stdout == "services\n"
    assert namespaces() == before
    assert "sleep 1000" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.split("\n")


def test_hosts_of_a_killed_process_end_and_the_next_removes_what_they_left(tmp_path):
    program = (
        "import os, signal, sys; from infra.hosts.hosts import hosts\n"
        "with hosts(['a'], '10.76.0') as made:\n"
        "    made['a'].start(['sleep', '1001']); print('up', flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    checkout = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, timeout=60)
    assert killed.stdout == "up\n"
    for _ in range(100):
        if "sleep 1001" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout:
            break
        time.sleep(0.1)
    else:
        pytest.fail("a process of the host is left")
    with hosts([], "10.76.0"):
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    owners = {line.split("-")[1] for line in listed.splitlines() if line.startswith("gantry-")}
    assert all(Path(f"/proc/{owner}").exists() for owner in owners)


def namespaces():
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line for line in listed.splitlines() if line.startswith(f"gantry-{os.getpid()}-")}


def test_a_machine_without_the_programs_is_told_which_package_has_them(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None if name == "nsenter" else f"/usr/bin/{name}")
    with pytest.raises(HostsError, match="need the program 'nsenter': install the package util-linux"):
        check_machine()


def test_an_ordinary_user_is_told_that_hosts_need_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostsError, match="Linux and root"):
        check_machine()
