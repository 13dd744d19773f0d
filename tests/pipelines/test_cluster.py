"""One Ray cluster for the stages of a run: started when asked for, gone with its owner."""

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from pipelines import cluster as module
from pipelines.cluster import offer_cluster
from pipelines.stages.alive import identity
from tests.pipelines.toy import CHECKOUT, environment, start, wait_for


def test_a_folder_with_a_long_path_is_left_to_ray(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_SOCKET", len(str(tmp_path)) + module._LONGEST_BELOW)
    assert module._session_folder(tmp_path) == str(tmp_path)
    assert module._session_folder(tmp_path / "deeper") is None


def test_old_sessions_logs_are_removed_but_not_those_of_a_living_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_SOCKET", 10_000)
    dead = 2**22 + 1
    names = [f"session_2026-11-2{day}_00-00-00_000000_{dead}" for day in range(5)]
    names[0] = f"session_2026-11-20_00-00-00_000000_{os.getpid()}"
    for name in names:
        (tmp_path / name).mkdir()
    module._session_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], *names[2:]]


def test_an_offer_that_nobody_takes_starts_nothing(tmp_path):
    before = {child.pid for child in psutil.Process().children()}
    with offer_cluster(tmp_path, environment()) as extra:
        assert Path(extra["GANTRY_CLUSTER"]).is_dir()
        assert {child.pid for child in psutil.Process().children()} <= before
    assert not Path(extra["GANTRY_CLUSTER"]).exists()


def test_the_offers_of_killed_runs_are_removed_by_the_next(tmp_path):
    with offer_cluster(tmp_path, environment()) as living:
        killed = tmp_path / "var" / "cluster" / "offer-killed"
        write_json(killed / "owner.json", f"{identity().rsplit(':', 2)[0]}:{2**22 + 1}:1")
        with offer_cluster(tmp_path, environment()):
            assert not killed.exists()
            assert Path(living["GANTRY_CLUSTER"]).is_dir()
    assert not list((tmp_path / "var" / "cluster").iterdir())


def test_a_cluster_that_is_named_is_not_offered_again(tmp_path):
    with offer_cluster(tmp_path, {"RAY_ADDRESS": "10.0.0.1:6379"}) as extra:
        assert extra == {}


def test_an_offered_cluster_that_does_not_start_is_an_error_that_names_its_log(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('a broken installation')")
    broken = environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")
    with offer_cluster(tmp_path, broken) as extra:
        monkeypatch.setenv("GANTRY_CLUSTER", extra["GANTRY_CLUSTER"])
        with pytest.raises(StageError, match=r"did not start: it ended with status 1; its log is .*ray.log"):
            module._offered()


STAND_IN_FOR_RAY = """
import os, types
is_initialized = lambda: False
init = lambda **settings: None
shutdown = lambda: None
get_runtime_context = lambda: types.SimpleNamespace(gcs_address=f"127.0.0.1:{os.getpid()}")
"""


def test_a_cluster_that_died_is_started_anew_for_whoever_asks_next(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text(STAND_IN_FOR_RAY)
    with offer_cluster(tmp_path, environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{CHECKOUT}")) as extra:
        place = Path(extra["GANTRY_CLUSTER"])
        monkeypatch.setenv("GANTRY_CLUSTER", str(place))
        first = module._offered()
        os.kill(int(first.partition(":")[2]), signal.SIGKILL)
        wait_for((place / "failed").exists, 30, "a note that the cluster died")
        assert not (place / "address").exists(), "a stage would be sent to a cluster that is gone"
        assert module._offered() != first


def test_a_cluster_of_a_worktree_keeps_its_log_where_the_run_keeps_everything(tmp_path):
    with offer_cluster(tmp_path / "tree", environment(GANTRY_VAR=str(tmp_path / "var"))) as extra:
        assert Path(extra["GANTRY_CLUSTER"]).parent == tmp_path / "var" / "cluster"


OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from pipelines.cluster import offer_cluster
from pipelines.stages.alive import identity
stage = '''
from pipelines.cluster import cluster
with cluster() as address:
    import ray
    @ray.remote(num_cpus=1)
    class Sleeper:
        def pid(self):
            import os, subprocess
            return os.getpid(), subprocess.Popen(["sleep", "300"]).pid
    print(*ray.get(Sleeper.remote().pid.remote()), address, flush=True)
'''
with offer_cluster(Path.cwd(), dict(os.environ)) as extra:
    for _ in range(2):
        subprocess.run([sys.executable, "-c", stage], env={**os.environ, **extra}, check=True)
    print("ready", flush=True)
    time.sleep(300)
"""


@pytest.mark.ray
def test_stages_share_a_cluster_and_nothing_of_it_outlives_a_killed_owner(tmp_path):
    owner = start(sys.executable, "-c", OWNER, cwd=tmp_path)
    lines = []
    while not lines or lines[-1] != "ready":
        line = owner.stdout.readline()
        assert line, lines
        lines.append(line.strip())
    found = [line.split() for line in lines if line.count(" ") == 2 and line[0].isdigit()]
    assert len(found) == 2
    assert found[0][2] == found[1][2], "the second stage got a cluster of its own"
    everything = [one.pid for one in psutil.Process(owner.pid).children(recursive=True)]
    assert len(everything) > 5
    owner.kill()
    owner.communicate()
    wait_for(lambda: not any(map(psutil.pid_exists, everything)), 30, f"the end of {everything}")
