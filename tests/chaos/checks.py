"""Checks after a fault and the next run: the same results, each metric once, no partial files."""

import csv
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gan_core.checkpoint import find_damage, list_checkpoints
from pipelines.tracking.events import find_logs, read_events
from pipelines.tracking.store import connect
from tests.chaos.place import Place, outs

LEFTOVERS = (".*.gantry-*", ".*.parts-*")
"""Patterns of Gantry's temporary files and folders."""


def make_old(place: Place, seconds: float = 3600.0) -> None:
    """Make the temporary files of a killed process look old, so that the next run removes them."""
    then = time.time() - seconds
    for path in leftovers(place):
        with suppress(FileNotFoundError):  # a process that outlived the killed one has just finished it
            os.utime(path, (then, then))


def leftovers(place: Place) -> list[Path]:
    """Gantry's temporary files and folders in the checkout, its ``var`` and its caches."""
    roots = (place.root, Path(place.environment["GANTRY_CACHE_DIR"]))
    return sorted(path for root in roots for name in LEFTOVERS for path in root.rglob(name))


def check_same(place: Place, name: str, wanted: Mapping[str, str]) -> None:
    """Check that the stage's results equal those of the undisturbed run, file by file."""
    found = outs(place.root, name)
    other = sorted(path for path in {*found, *wanted} if found.get(path) != wanted.get(path))
    assert not other, f"differ from the undisturbed run: {', '.join(other)}"


def check_whole(place: Place) -> None:
    """Check that no temporary files remain, every JSON file parses and every checkpoint matches its manifest."""
    left = leftovers(place)
    assert not left, f"left behind: {', '.join(str(path.relative_to(place.root.parent)) for path in left[:5])}"
    for folder in ("var", "outputs", "data/prepared"):
        for path in sorted((place.root / folder).rglob("*.json")):
            if "var/ray/" in str(path) or path.is_symlink():
                continue
            if "/search/" in str(path):
                continue  # files of Ray Tune: one object per line, or a pickle
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise AssertionError(f"{path.relative_to(place.root)} is no JSON: {error}") from None
    for work in sorted((place.root / "var/work/train").glob("*/checkpoints")):
        for path in list_checkpoints(work):
            assert find_damage(path) is None, f"{path.relative_to(place.root)}: {find_damage(path)}"


def check_metrics(place: Place, uri: str | None = None, name: str = "train") -> None:
    """Check that MLflow has one FINISHED run of the stage whose metrics equal curves.csv: each value once, in order."""
    client = connect(uri or f"sqlite:///{place.root / 'var/mlflow.db'}")
    experiment = client.get_experiment_by_name("chaos")
    assert experiment is not None, "MLflow has no experiment"
    runs = client.search_runs([experiment.experiment_id], f"tags.`gantry.stage` = '{name}'")
    assert len(runs) == 1, f"MLflow has {len(runs)} runs of {name}"
    assert runs[0].info.status == "FINISHED", f"the run of {name} is {runs[0].info.status}"
    if name != "train":
        return
    with open(place.root / "outputs/train/curves.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows, "curves.csv is empty"
    for column in rows[0]:
        if column == "step":
            continue
        wanted = [(int(row["step"]), float(row[column])) for row in rows if row[column] != ""]
        key = column.replace("_", "/", 1)
        history = [(metric.step, metric.value) for metric in client.get_metric_history(runs[0].info.run_id, key)]
        assert sorted(history) == wanted, f"{key}: MLflow has {_difference(history, wanted)}"


def _difference(found: list[Any], wanted: list[Any]) -> str:
    more, less = Counter(found) - Counter(wanted), Counter(wanted) - Counter(found)
    return f"too much {sorted(more.elements())[:3]}, too little {sorted(less.elements())[:3]}"


def check_one_version(place: Place, uri: str | None = None) -> None:
    """Check that the registry has one version, the challenger, and no files of failed attempts."""
    client = connect(uri or f"sqlite:///{place.root / 'var/mlflow.db'}")
    versions = client.search_model_versions("name = 'digits'")
    assert [version.version for version in versions] in (["1"], [1]), f"versions: {[v.version for v in versions]}"
    aliases = client.get_registered_model("digits").aliases
    assert {name: str(version) for name, version in aliases.items()} == {"challenger": "1"}, f"aliases: {aliases}"
    experiment = client.get_experiment_by_name("chaos")
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == 1, f"{len(models)} logged models for one version"


def check_logs_sent(place: Place) -> None:
    """Check that no event waits and that the server rejected none."""
    for log in find_logs(place.root / "var/track"):
        cursor = json.loads((log / "cursor.json").read_text(encoding="utf-8"))
        end = max((after for _, after in read_events(log)), default=0)
        assert cursor["offset"] == end, f"{log.name}: {end - cursor['offset']} bytes of events were not sent"
        assert not (log / "refused.jsonl").exists(), f"{log.name}: {(log / 'refused.jsonl').read_text()[:300]}"
