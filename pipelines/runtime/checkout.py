"""Where the files of a project are: each path is named here, once.

The constants are relative to the root. dvc.yaml uses the same names, and a stage's result is keyed by them.
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
SAMPLES = "outputs/evaluate/samples.png"
METRICS = "outputs/evaluate/metrics.json"
REGISTERED = "outputs/register/registered.json"

OUTS = {
    "ingest": (PREPARED,),
    "tune": (BEST, SEARCH_PLOT, LEADERBOARD),
    "train": (GENERATOR, GRIDS, CURVES, FID_CURVE),
    "evaluate": (SAMPLES, METRICS),
    "register": (REGISTERED,),
}
"""What the code of each of Gantry's stages makes. A dvc.yaml that lists less of it was cut short, or is not finished."""

VAR_VARIABLE = "GANTRY_VAR"


@dataclass(frozen=True)
class Checkout:
    """A folder with params.yaml and dvc.yaml (a clone of Gantry, a project of ``gantry init``, a git worktree) and its places.

    Nothing is read or written here; a place need not exist.
    """

    root: Path
    """Absolute."""
    var: Path
    """Absolute. What Gantry makes that is no result: work in progress, event logs, servers' state."""

    @classmethod
    def at(cls, root: Path | str = ".", environment: Mapping[str, str] = os.environ) -> Self:
        """The checkout at ``root``. Its ``var`` is the folder ``var`` there, or where GANTRY_VAR points.

        A run in a git worktree points it at the main checkout's, so that work in progress and event logs outlive the
        worktree and a run of the same key resumes.
        """
        root = Path(root).resolve()
        given = environment.get(VAR_VARIABLE)
        return cls(root=root, var=Path(given).resolve() if given else (root / "var").resolve())

    @property
    def params(self) -> Path:
        """The settings."""
        return self.root / PARAMS

    @property
    def dvc_yaml(self) -> Path:
        """The stages."""
        return self.root / DVC_YAML

    @property
    def dvc_lock(self) -> Path:
        """Hashes of what the stages last read and made."""
        return self.root / DVC_LOCK

    @property
    def raw(self) -> Path:
        """Raw data sets, each a folder with DVC's pointer beside it."""
        return self.root / RAW

    def raw_data(self, name: str) -> Path:
        """The folder of the raw data set ``name``."""
        return self.raw / name

    def raw_pointer(self, name: str) -> Path:
        """DVC's pointer to the raw data set ``name``."""
        return self.raw / f"{name}.dvc"

    @property
    def prepared(self) -> Path:
        """The prepared data set."""
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
    def samples(self) -> Path:
        """The contact sheet of that generator."""
        return self.root / SAMPLES

    @property
    def metrics(self) -> Path:
        """The figures of that generator."""
        return self.root / METRICS

    @property
    def registered(self) -> Path:
        """The registered version."""
        return self.root / REGISTERED

    def out(self, place: str) -> Path:
        """The out of a stage that dvc.yaml calls ``place``."""
        return self.root / place

    def work(self, stage: str, key: str) -> Path:
        """Work in progress of the stage ``stage`` with the stage key ``key``."""
        return self.var / "work" / stage / key

    @property
    def events(self) -> Path:
        """Event logs that are shipped to MLflow."""
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
        """Output of the process that keeps the cluster of a pipeline run."""
        return self.var / "ray.log"

    @property
    def cluster_offers(self) -> Path:
        """Notes by which stages find the cluster of their pipeline run."""
        return self.var / "cluster"

    @property
    def prefect(self) -> Path:
        """State of the checkout's own Prefect server; for its owner alone."""
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
        """Git worktrees of runs of a revision."""
        return self.var / "worktrees"

    @property
    def run_lock(self) -> Path:
        """Held by the run that uses the checkout as it is."""
        return self.var / "run.lock"
