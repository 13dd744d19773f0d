"""One Ray cluster for the stages of a run: it starts on request and ends with its owner."""

import http.client
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from pipelines.runtime import cluster as module
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.guard import process_identity
from tests.pipelines.toy import CHECKOUT, command_line, environment, listeners, start, wait_for


def test_no_cluster_starts_without_a_request(tmp_path):
    before = {child.pid for child in psutil.Process().children()}
    with offer_cluster(Checkout.at(tmp_path), environment()) as extra:
        assert Path(extra["GANTRY_CLUSTER"]).is_dir()
        assert {child.pid for child in psutil.Process().children()} <= before
    assert not Path(extra["GANTRY_CLUSTER"]).exists()


def test_offers_of_killed_runs_are_removed(tmp_path):
    with offer_cluster(Checkout.at(tmp_path), environment()) as living:
        killed = tmp_path / "var" / "cluster" / "offer-killed"
        write_json(killed / "owner.json", f"{process_identity().rsplit(':', 2)[0]}:{2**22 + 1}:1")
        with offer_cluster(Checkout.at(tmp_path), environment()):
            assert not killed.exists()
            assert Path(living["GANTRY_CLUSTER"]).is_dir()
    assert not list((tmp_path / "var" / "cluster").iterdir())


def test_no_cluster_is_offered_beside_a_named_one(tmp_path):
    with offer_cluster(Checkout.at(tmp_path), {"RAY_ADDRESS": "10.0.0.1:6379"}) as extra:
        assert extra == {}


def test_a_cluster_that_does_not_start_raises_an_error_with_its_log(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('a broken installation')")
    broken = environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")
    with offer_cluster(Checkout.at(tmp_path), broken) as extra:
        monkeypatch.setenv("GANTRY_CLUSTER", extra["GANTRY_CLUSTER"])
        with pytest.raises(StageError, match=r"did not start: it ended with status 1; its log is .*ray.log"):
            module._offered()


def test_a_cluster_whose_log_cannot_be_written_raises_an_error_at_once(tmp_path, monkeypatch):
    log = tmp_path / "var" / "ray.log"
    log.mkdir(parents=True)
    with offer_cluster(Checkout.at(tmp_path), environment()) as extra:
        monkeypatch.setenv("GANTRY_CLUSTER", extra["GANTRY_CLUSTER"])
        monkeypatch.setattr(module, "START_SECONDS", 30.0)
        with pytest.raises(StageError, match=r"did not start: .*Is a directory: '.*ray.log'"):
            module._offered()


STAND_IN_FOR_RAY = {
    "__init__": """
import os, types
is_initialized = lambda: False
init = lambda **settings: None
shutdown = lambda: None
get_runtime_context = lambda: types.SimpleNamespace(gcs_address=f"127.0.0.1:{os.getpid()}")
""",
    "_private/__init__": "",
    "_private/ray_constants": "ENABLE_RAY_CLUSTER = True",
    "_private/utils": "get_num_cpus = lambda: 1",
    "_raylet": """
import types
Config = types.SimpleNamespace(initialize=lambda text: None)
AuthenticationTokenLoader = types.SimpleNamespace(instance=lambda: types.SimpleNamespace(reset_cache=lambda: None))
""",
}


@pytest.fixture
def without_ray(tmp_path: Path) -> dict[str, str]:
    """An environment in which Ray is a stand-in that starts nothing."""
    for name, text in STAND_IN_FOR_RAY.items():
        write = tmp_path / "ray" / f"{name}.py"
        write.parent.mkdir(exist_ok=True)
        write.write_text(text)
    return environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")


def test_a_cluster_that_died_is_restarted_at_the_next_request(tmp_path, monkeypatch, without_ray):
    with offer_cluster(Checkout.at(tmp_path), without_ray) as extra:
        place = Path(extra["GANTRY_CLUSTER"])
        monkeypatch.setenv("GANTRY_CLUSTER", str(place))
        first = module._offered()["address"]
        os.kill(int(first.partition(":")[2]), signal.SIGKILL)
        wait_for((place / "failed").exists, 30, "a note that the cluster died")
        assert not (place / "address").exists(), "a stage would be sent to a cluster that is gone"
        assert module._offered()["address"] != first


def test_another_program_at_the_recorded_address_is_not_used_as_the_cluster(tmp_path, monkeypatch):
    """The control store died and its address is still recorded; another program listens there now."""
    gone = f"{process_identity().rsplit(':', 2)[0]}:{2**22 + 1}:1"
    write_json(tmp_path / "address", {"address": "127.0.0.1:6379", "processes": {"control store (GCS)": gone}})
    monkeypatch.setenv("GANTRY_CLUSTER", str(tmp_path))
    monkeypatch.setattr(module, "START_SECONDS", 0.5)
    with pytest.raises(StageError, match="did not start within"):
        module._offered()


def test_each_offer_has_its_own_token_and_no_file_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with (
        offer_cluster(Checkout.at(tmp_path), environment(RAY_AUTH_TOKEN="theirs")) as one,
        offer_cluster(Checkout.at(tmp_path), environment()) as two,
    ):
        assert one["RAY_AUTH_MODE"] == two["RAY_AUTH_MODE"] == "token"
        assert len({one["RAY_AUTH_TOKEN"], two["RAY_AUTH_TOKEN"], "theirs"}) == 3
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in files if one["RAY_AUTH_TOKEN"] in path.read_text()]


def test_the_cluster_of_a_worktree_logs_to_the_main_checkout(tmp_path):
    checkout = Checkout(root=tmp_path / "tree", var=tmp_path / "var")
    with offer_cluster(checkout, environment(GANTRY_VAR=str(checkout.var))) as extra:
        assert Path(extra["GANTRY_CLUSTER"]).parent == tmp_path / "var" / "cluster"


OWNER = """
import os, subprocess, sys, time
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import offer_cluster
from pipelines.runtime.guard import process_identity
stage = '''
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
with ray_cluster(Checkout.at()) as address:
    import ray
    @ray.remote(num_cpus=1)
    class Sleeper:
        def pid(self):
            import os, subprocess
            return os.getpid(), subprocess.Popen(["sleep", "300"]).pid
    print(*ray.get(Sleeper.remote().pid.remote()), address, flush=True)
'''
with offer_cluster(Checkout.at(), dict(os.environ)) as extra:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", stage], env={**os.environ, **extra}, check=True)
    print("ready", flush=True)
    time.sleep(300)
"""


CLIENT = """
import sys
import ray
try:
    ray.init(address=sys.argv[1], logging_level="ERROR")
except Exception as error:
    print("refused", str(error)[:500])
else:
    print("came in")
"""


def _client(address: str, cwd: Path, **token: str) -> subprocess.Popen[str]:
    # The first has the client ask at this very address, the second has it ask twice, not 20 times; neither is a secret.
    settings = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_gcs_server_port_wait_time_s": "2"}
    return start(sys.executable, "-c", CLIENT, address, cwd=cwd, **settings, **token)


def _answers(port: int) -> bool:
    """Whether a web server gives a page to whoever asks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5).status == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.ray
def test_stages_share_a_private_cluster_that_ends_with_a_killed_owner(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    owner = start(sys.executable, "-c", OWNER, cwd=tmp_path, HOME=str(home))
    try:
        lines = []
        while not lines or lines[-1] != "ready":
            line = owner.stdout.readline()
            assert line, lines
            lines.append(line.strip())
        found = [line.split() for line in lines if line.count(" ") == 2 and line[0].isdigit()]
        assert len(found) == 2
        assert found[0][2] == found[1][2], "the second stage got a cluster of its own"
        everything = psutil.Process(owner.pid).children(recursive=True)
        assert len(everything) > 5

        listening = listeners(one.pid for one in everything)
        assert len(listening) > 3
        assert {ip for ip, _ in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        assert not [port for _, port in listening if _answers(port)]
        assert stat.S_IMODE(_above_the_sessions(everything).stat().st_mode) == 0o700
        address = found[0][2]
        clients = [
            _client(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
            _client(address, tmp_path),
        ]
        told = [client.communicate(timeout=400)[0] for client in clients]
        # Ray's own words come from its native part, to the same stream.
        assert all("refused" in text and "token is missing or incorrect" in text for text in told), told
        assert list(home.iterdir()) == []
    finally:
        owner.kill()
        owner.communicate()
    wait_for(lambda: not any(one.is_running() for one in everything), 30, f"the end of {everything}")


def _above_the_sessions(processes: list[psutil.Process]) -> Path:
    """The folder above the one that Ray keeps its sessions in."""
    words = " ".join(command_line(one) for one in processes)
    return Path(re.search(r"(/[^ =]*)/s/session_2", words).group(1))


DIES = """
import os, sys, threading, time
import psutil
from gan_core.errors import GantryError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
def kill():
    time.sleep(3)
    for process in psutil.Process().children(recursive=True):
        if process.name() == sys.argv[1]:
            process.kill()
            print("killed", flush=True)
try:
    with ray_cluster(Checkout.at(), num_cpus=1, log_to_driver=False):
        import ray
        @ray.remote
        def wait():
            time.sleep(300)
        threading.Thread(target=kill).start()
        ray.get(wait.remote())
except GantryError as error:
    print(f"error: {error}", flush=True)
    sys.exit(1)
"""


@pytest.mark.ray
@pytest.mark.parametrize(("name", "what"), [("gcs_server", "control store (GCS)"), ("raylet", "node manager (raylet)")])
def test_a_cluster_that_dies_during_a_stage_raises_one_clear_error(tmp_path, name, what):
    stage = start(sys.executable, "-c", DIES, name, cwd=tmp_path)
    lines = []
    while not lines or lines[-1] != "killed":
        line = stage.stdout.readline()
        assert line, lines
        lines.append(line.strip())
    killed = time.monotonic()
    try:
        told = stage.communicate(timeout=60)[0]
    finally:
        if stage.poll() is None:
            stage.kill()
            stage.communicate()
    assert f"error: The Ray cluster of this run died: its {what}, process" in told
    assert "Run the stage again: it resumes" in told
    assert "Traceback" not in told
    assert stage.returncode == 1
    assert time.monotonic() - killed < 40
