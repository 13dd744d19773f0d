"""The whole chain on hosts that share no files: from a deployment to a version that is served elsewhere. Takes 15 minutes.

Host ``a`` runs the Prefect worker and gives Ray no CPUs; ``b`` and ``c`` train. MLflow and Prefect use PostgreSQL; the
pipeline's storage, MLflow's artifacts and DVC's remote are in S3. ``d`` serves.
"""

import base64
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import yaml

from gan_core.files import sha256_file
from infra.hosts.driver import CODE, ENVIRONMENT, PROJECT, copy_code
from infra.hosts.server import Server, accepts
from pipelines.runtime.environment import PREFECT_RETRIES

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

POOL = "hosts"
WORKER_CACHE = "/opt/worker"
"""Cache folder of the Prefect worker, which shares nothing with the project of the person who deploys."""
PARAMS = {
    "data": {"name": "digits"},
    "ingest": {"size": [16, 16], "channels": 1, "fit": "stretch", "workers": 2},
    "model": {"family": "dcgan", "width": 8, "latent": 16},
    "train": {"steps": 60, "batch": 32, "log_every": 10, "sample_every": 30, "checkpoint_every": 20, "num_workers": 2},
    "tune": {"trials": 0},
    "evaluate": {"samples": 32, "real": 32, "batch": 16, "objective": "fid"},
    "register": {"name": "digits"},
    "track": {"uri": "sqlite:///var/mlflow.db", "experiment": "chain"},  # the environment takes precedence
    "flow": {"retries": 0, "push_experiments": True},
}
GENERATOR = f"{PROJECT}/outputs/train/generator"
LONG_RUN = {"train.steps": 2000, "train.log_every": 50, "train.checkpoint_every": 200, "train.sample_every": 1000}
OUTAGE_SECONDS = 60.0
# Gantry cannot be imported where this runs.
REQUEST = """
import json, sys, urllib.request
try:
    import gan_core
    sys.exit("gan_core is here")
except ImportError:
    pass
body = json.dumps({"dataframe_records": [{"n": 4, "seed": 5}]}).encode()
request = urllib.request.Request("http://127.0.0.1:8080/invocations", body, {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def make_project(host, environment):
    """A project with digits on ``host``, committed."""
    host.run(["gantry", "init", PROJECT], cwd=CODE, environment=environment)
    host.run(["gantry", "data", "fetch", "digits"], cwd=PROJECT, environment=environment)
    host.files(f"{PROJECT}/params.yaml").write_text(yaml.safe_dump(PARAMS))


def deploy_project(everything):
    """Push a project on the driver to a git repository there, its data to the bucket, and deploy it."""
    driver, environment = everything.driver, everything.environment
    make_project(driver, environment)

    def run(*command):
        driver.run(command, cwd=PROJECT, environment=environment)

    run("dvc", "remote", "add", "--default", "bucket", "s3://gantry/dvc")
    run("git", "init", "-q", "--bare", "-b", "main", "/opt/remote.git")
    run("git", "remote", "add", "origin", "file:///opt/remote.git")
    run("git", "branch", "-M", "main")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "settings")
    run("git", "push", "-q", "-u", "origin", "main")
    run("dvc", "push", "-q")
    run("gantry", "deploy", "--pool", POOL, "--no-schedule", "--revision", "main", "--clone")


@contextmanager
def prefect_worker(everything, log) -> Iterator[None]:
    """A worker of the pool on the driver, for the length of the block."""
    environment = {
        **everything.environment,
        **PREFECT_RETRIES,
        "GANTRY_CACHE_DIR": WORKER_CACHE,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    }
    command = ["prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    process = everything.driver.start(command, environment=environment, log=log)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@contextmanager
def hosts_seen(everything, *names) -> Iterator[dict[str, set[str]]]:
    """Yield the hosts on which a process with one of these names in its command line was seen so far, by name."""
    seen: dict[str, set[str]] = {name: set() for name in names}
    ended = threading.Event()

    def look():
        while not ended.wait(0.5):
            for host in ("a", "b", "c"):
                processes = everything.hosts[host].run(["ps", "-eo", "args"]).stdout
                for name in names:
                    if name in processes:
                        seen[name].add(host)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


@contextmanager
def postgres_away_during_training(everything) -> Iterator[threading.Event]:
    """Kill PostgreSQL once the workers train, and start it again after a minute; the event says that this was done."""
    over, done = threading.Event(), threading.Event()

    def interrupt():
        while not over.wait(0.5):
            if "RayTrainWorker" in everything.hosts["b"].run(["ps", "-eo", "args"]).stdout:
                break
        else:
            return
        over.wait(10)  # so that some metrics are in MLflow before
        everything.services.postgres.server.stop()
        over.wait(OUTAGE_SECONDS)
        everything.services.postgres.server.start()
        if not over.is_set():
            done.set()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        yield done
    finally:
        over.set()
        interrupting.join()


def run_deployment(everything, log, **parameters):
    """Run the deployment to its end; returns what Prefect's command prints."""
    command = ["prefect", "deployment", "run", "pipeline/nightly", "--watch", "--watch-interval", "1"]
    command += [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    # The command that watches the run has to outlast an outage of the server too.
    environment = {**everything.environment, **PREFECT_RETRIES}
    done = everything.driver.run(command, environment=environment, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + log.read_text(errors="replace")[-6000:]
    return done.stdout


def generator_losses(everything):
    """Steps of all points of the generator's loss that the MLflow server has, for each training run; shortest first."""
    program = (
        "import json, mlflow\n"
        "client = mlflow.MlflowClient()\n"
        "runs = client.search_runs([client.get_experiment_by_name('chain').experiment_id])\n"
        "found = [client.get_metric_history(run.info.run_id, 'loss/generator') for run in runs]\n"
        "print(json.dumps([sorted(point.step for point in points) for points in found if points]))"
    )
    shown = everything.hosts["d"].run([sys.executable, "-c", program], environment=everything.services.mlflow.client)
    return sorted(json.loads(shown.stdout.splitlines()[-1]), key=len)


@pytest.fixture(scope="module")
def chain(everything, logs):
    """The deployed run on the hosts: the hosts on which training workers were seen, and the log of the Prefect worker."""
    log = logs / "worker.log"
    deploy_project(everything)
    with prefect_worker(everything, log), hosts_seen(everything, "ray::convert", "RayTrainWorker") as seen:
        run_deployment(everything, log)
    return seen, log.read_text()


@pytest.fixture(scope="module")
def served(everything, chain, logs):
    """Pictures, and the digest of the weights, of the promoted version on a host that knows the registry's address alone."""
    driver, outside = everything.driver, everything.hosts["d"]
    driver.run(["gantry", "promote"], cwd=PROJECT, environment=everything.environment)
    environment = {**everything.services.mlflow.client, "PATH": ENVIRONMENT["PATH"]}
    command = ["mlflow", "models", "serve", "--model-uri", "models:/digits@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", "8080"]
    ready = partial(accepts, outside, 8080, "127.0.0.1")
    server = Server("The model", outside, command, ready=ready, log=logs / "served.log", environment=environment)
    try:
        answer = json.loads(outside.run([sys.executable, "-c", REQUEST], timeout=60).stdout)["predictions"]
        (weights,) = outside.files("/tmp").rglob("generator.safetensors")
        return [base64.b64decode(row["png"]) for row in answer], sha256_file(weights)
    finally:
        server.stop()


def test_every_stage_runs_and_the_work_is_done_on_the_hosts_with_cpus(chain):
    seen, log = chain
    for stage in ("ingest", "train", "evaluate", "register"):
        assert f"Task run '{stage}' - Finished in state Ran" in log
    assert seen == {"ray::convert": {"b", "c"}, "RayTrainWorker": {"b", "c"}}


def test_each_metric_of_training_is_in_mlflow_once(everything, chain):
    assert generator_losses(everything) == [[10, 20, 30, 40, 50, 60]]


def test_the_person_who_deployed_pulls_the_results_from_the_bucket(everything, chain, served):
    """The project has none of them before: the run was in the clone of the worker."""
    driver, environment = everything.driver, everything.environment
    assert not driver.files(GENERATOR).exists()
    listed = driver.run(["dvc", "exp", "list", "--name-only", "origin"], cwd=PROJECT, environment=environment).stdout
    (experiment,) = listed.split()
    for command in (["exp", "pull", "-q", "origin", experiment], ["exp", "apply", "-q", experiment]):
        driver.run(["dvc", *command], cwd=PROJECT, environment=environment)
    assert sha256_file(driver.files(f"{GENERATOR}/generator.safetensors")) == served[1]


def test_one_host_without_services_makes_the_same_generator(everything, served):
    alone = everything.hosts["alone"]
    copy_code(alone)
    make_project(alone, ENVIRONMENT)
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "settings"], ["gantry", "run", "train"]):
        alone.run(command, cwd=PROJECT, environment=ENVIRONMENT, timeout=500)
    assert sha256_file(alone.files(f"{GENERATOR}/generator.safetensors")) == served[1]


def test_a_run_goes_on_while_postgres_is_away_for_a_minute(everything, chain, logs):
    """MLflow and Prefect answer with errors meanwhile."""
    log = logs / "away.log"
    with prefect_worker(everything, log), postgres_away_during_training(everything) as done:
        run_deployment(everything, log, overrides=LONG_RUN)
        assert done.is_set(), "the run ended before PostgreSQL was back"
    assert generator_losses(everything)[-1] == list(range(50, 2001, 50))
