"""The paths of a project's files, each defined once.

The constants are relative to the root of the project. dvc.yaml uses the same paths, and they are the keys of a stage's results.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PARAMS = "params.yaml"
DVC_YAML = "dvc.yaml"
DVC_LOCK = "dvc.lock"
RAW = "data/raw"

PREPARED = "data/prepared"
BEST = "outputs/tune/best.json"
SEARCH_PLOT = "outputs/tune/search.png"
LEADERBOARD = "outputs/tune/leaderboard.csv"
GENERATOR = "outputs/train/generator"
GRIDS = "outputs/train/grids"
CURVES = "outputs/train/curves.csv"
FID_CURVE = "outputs/train/fid.csv"
START = "outputs/train/start"
START_DESCRIPTION = f"{START}/start.json"
SAMPLES = "outputs/evaluate/samples.png"
NEIGHBOURS = "outputs/evaluate/neighbours.png"
SHARES = "outputs/evaluate/shares.csv"
METRICS = "outputs/evaluate/metrics.json"
REGISTERED = "outputs/register/registered.json"

OUTS = {
    "ingest": (PREPARED,),
    "tune": (BEST, SEARCH_PLOT, LEADERBOARD),
    "train": (GENERATOR, GRIDS, CURVES, FID_CURVE, START),
    "evaluate": (SAMPLES, NEIGHBOURS, SHARES, METRICS),
    "register": (REGISTERED,),
}
"""The outs that the code of each of Gantry's stages makes. A dvc.yaml that lists fewer was truncated, or is not finished."""

OPTIONAL_OUTS = frozenset({START, NEIGHBOURS, SHARES})
"""Outs that the dvc.yaml of an older project may lack. They are then not published."""

VAR_VARIABLE = "GANTRY_VAR"


@dataclass(frozen=True)
class Checkout:
    """The paths in a folder with params.yaml and dvc.yaml: a clone of Gantry, a project of ``gantry init``, or a git worktree.

    Nothing is read or written here, and a path need not exist.
    """

    root: Path
    """Absolute."""
    var: Path
    """Absolute. Everything that Gantry writes and that is not a result: work in progress, event logs, state of servers."""

    @classmethod
    def at(cls, root: Path | str = ".", environment: Mapping[str, str] = os.environ) -> Self:
        """The checkout at ``root``. Its ``var`` is the folder ``var`` in it, or the folder that GANTRY_VAR names.

        A run in a git worktree sets GANTRY_VAR to the main checkout's ``var``, so that work in progress and event logs outlive
        the worktree and a later run with the same stage key resumes.
        """
        root = Path(root).resolve()
        given = environment.get(VAR_VARIABLE)
        return cls(root=root, var=Path(given).resolve() if given else (root / "var").resolve())

    @property
    def params(self) -> Path:
        """params.yaml, the settings."""
        return self.root / PARAMS

    @property
    def dvc_yaml(self) -> Path:
        """dvc.yaml, the stages."""
        return self.root / DVC_YAML

    @property
    def dvc_lock(self) -> Path:
        """dvc.lock: hashes of the inputs and outputs of the last run of each stage."""
        return self.root / DVC_LOCK

    @property
    def raw(self) -> Path:
        """The folder of raw datasets. Each is a folder with its .dvc file beside it."""
        return self.root / RAW

    def raw_data(self, name: str) -> Path:
        """The folder of the raw dataset ``name``."""
        return self.raw / name

    def raw_pointer(self, name: str) -> Path:
        """The .dvc file of the raw dataset ``name``."""
        return self.raw / f"{name}.dvc"

    def raw_lock(self, name: str) -> Path:
        """The lock of the process that writes the raw dataset ``name``."""
        return self.var / "data" / f"{name}.lock"

    @property
    def prepared(self) -> Path:
        """The prepared dataset."""
        return self.root / PREPARED

    @property
    def best(self) -> Path:
        """The best settings of the search."""
        return self.root / BEST

    @property
    def generator(self) -> Path:
        """The exported generator of the last training."""
        return self.root / GENERATOR

    @property
    def start(self) -> Path:
        """What a later run needs to start from the last training."""
        return self.root / START

    def parent_record(self, stage: str, key: str) -> Path:
        """The record of the run that ``stage`` starts from; ``key``: its stage key without that run."""
        return self.var / "work" / stage / f"{key}.parent.json"

    @property
    def samples(self) -> Path:
        """The contact sheet of the generator."""
        return self.root / SAMPLES

    @property
    def neighbours(self) -> Path:
        """The generated pictures that are closest to a real one, each beside it."""
        return self.root / NEIGHBOURS

    @property
    def metrics(self) -> Path:
        """The measured figures of the generator."""
        return self.root / METRICS

    @property
    def registered(self) -> Path:
        """The name and number of the registered version."""
        return self.root / REGISTERED

    def place(self, path: Path | str) -> str:
        """An absolute path relative to the root, as dvc.yaml has it: with slashes, and ``../`` for one outside the root."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def out(self, path: str) -> Path:
        """The absolute path of the out that dvc.yaml lists as ``path``."""
        return self.root / path

    def work(self, stage: str, key: str) -> Path:
        """The work directory of the stage ``stage`` with the stage key ``key``."""
        return self.var / "work" / stage / key

    @property
    def events(self) -> Path:
        """Event logs that are sent to MLflow."""
        return self.var / "track"

    @property
    def stage_logs(self) -> Path:
        """Output of the stages, a folder for each flow run."""
        return self.var / "logs"

    @property
    def ray(self) -> Path:
        """Logs of local Ray clusters."""
        return self.var / "ray"

    @property
    def ray_log(self) -> Path:
        """Output of the process that runs the Ray cluster of a pipeline run."""
        return self.var / "ray.log"

    @property
    def cluster_offers(self) -> Path:
        """Files through which stages find the Ray cluster of their pipeline run."""
        return self.var / "cluster"

    @property
    def prefect(self) -> Path:
        """State of the checkout's own Prefect server. Only its owner can read it."""
        return self.var / "prefect"

    @property
    def auth(self) -> Path:
        """User name and password of the checkout's own servers."""
        return self.prefect / "auth"

    @property
    def mlflow_log(self) -> Path:
        """Output of the MLflow pages of ``gantry ui``."""
        return self.var / "mlflow-ui.log"

    @property
    def worktrees(self) -> Path:
        """Git worktrees in which revisions run."""
        return self.var / "worktrees"

    @property
    def run_lock(self) -> Path:
        """The lock of the run that uses the checkout itself, not a worktree."""
        return self.var / "run.lock"
