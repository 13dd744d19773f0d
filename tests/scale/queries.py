"""How long Gantry's own queries take in a tracking database with many runs and versions (SQLite)."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy

from gan_core.disk import format_bytes
from pipelines.registry.champion import current_ledger
from pipelines.registry.find import get_version
from pipelines.tracking.store import KEY_TAG, connect, ensure_experiment, find_run_id

RUNS, VERSIONS, METRICS = 10_000, 1_000, 20


def fill(uri: str, experiment: str) -> None:
    """Write runs with tags and metrics, and versions of one model, straight into MLflow's tables."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlRun, SqlTag

    runs = [f"{number:032x}" for number in range(RUNS)]
    now = int(time.time() * 1000)
    common = {
        "experiment_id": int(experiment),
        "lifecycle_stage": "active",
        "status": "FINISHED",
        "source_type": "LOCAL",
    }
    rows: list[tuple[type, list[dict]]] = [
        (SqlRun, [{**common, "run_uuid": run, "name": "train", "start_time": now, "user_id": "u"} for run in runs]),
        (SqlTag, [{"run_uuid": run, "key": KEY_TAG, "value": f"key-{n}"} for n, run in enumerate(runs)]),
        (
            SqlLatestMetric,
            [
                {"run_uuid": run, "key": f"m{k}", "value": 1.0, "timestamp": now, "step": 1, "is_nan": False}
                for run in runs
                for k in range(METRICS)
            ],
        ),
        (SqlRegisteredModel, [{"name": "scale", "creation_time": now, "last_updated_time": now}]),
        (
            SqlModelVersion,
            [
                {"name": "scale", "version": n + 1, "run_id": runs[n], "creation_time": now, "current_stage": "None"}
                | {"status": "READY", "source": f"runs:/{runs[n]}/model", "last_updated_time": now}
                for n in range(VERSIONS)
            ],
        ),
    ]
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        for table, values in rows:
            connection.execute(sqlalchemy.insert(table), values)
    engine.dispose()


def query_seconds() -> dict[str, float]:
    """Median seconds of each query, and the size of the database under its own name."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        client = connect(uri)
        experiment = ensure_experiment(client, uri, "scale")
        fill(uri, experiment)
        assert find_run_id(client, experiment, f"key-{RUNS // 2}") == f"{RUNS // 2:032x}"
        queries: dict[str, Callable[[], object]] = {
            "run by its key": lambda: find_run_id(client, experiment, f"key-{RUNS // 2}"),
            "run by a key that does not exist": lambda: find_run_id(client, experiment, "none"),
            "whether a version is registered": lambda: get_version("scale", str(VERSIONS), tracking_uri=uri),
            "ledger of a model (gate)": lambda: current_ledger(client, "scale"),
            "newest version of a model": lambda: client.search_model_versions(
                "name = 'scale'", order_by=["version_number DESC"], max_results=1
            ),
        }
        taken = {name: _median(query) for name, query in queries.items()}
        size = (Path(folder) / "mlflow.db").stat().st_size
    return {**taken, f"(database of {format_bytes(size)})": 0.0}


def _median(query: Callable[[], object]) -> float:
    taken = []
    for _ in range(7):
        started = time.perf_counter()
        query()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])
