"""What is compared: a run, a registered version, or a revision, with its settings, figures, cost, pictures and curves."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from gan_core.disk import format_bytes
from gan_core.errors import GantryError, StageError, TrackingError
from gan_core.images.grid import save_sheet
from gan_core.inference.generator import load_generator
from gan_core.metrics.protocol import Figure
from gan_core.precision import choose_device
from pipelines.evaluation.measure import figure_title
from pipelines.registry.contents import find_generator, version_files
from pipelines.registry.find import find_version
from pipelines.registry.inputs import read_figures
from pipelines.runtime.checkout import BEST, CURVES, FID_CURVE, METRICS, NEIGHBOURS, PARAMS, SAMPLES, Checkout
from pipelines.runtime.git import GitError, run_git
from pipelines.settings.schema import Settings, parse_settings
from pipelines.tracking.runlog import STAGE_TAG, TRIAL, flatten, texts
from pipelines.tracking.store import PARENT_TAG, connect, explain_server_errors, find_run, is_refusal
from pipelines.training.curves import last_step

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

COST = "cost/"
FILES = (METRICS, SAMPLES, NEIGHBOURS, CURVES, FID_CURVE)
"""What is compared besides settings and cost. In a run and in a version, each file has its name only."""
GRID, GRID_PICTURES, GRID_SEED = "grid.png", 64, 0
"""Name of the grid that is drawn for a page, number of its pictures, and their seed."""
_LARGEST_FILE = 64 << 20
_SECTIONS = ("data", "ingest", "model", "train", "tune", "evaluate")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the things that are compared."""

    name: str
    kind: str
    """``run``, ``version`` or ``revision``."""
    params: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By title."""
    cost: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files: ``samples.png``, ``neighbours.png``, ``grid.png``."""
    curves: Mapping[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(kimg, value) by name."""
    missing: tuple[str, ...] = ()
    """What is not there, each with the reason."""

    @property
    def protocol_of_fid_curve(self) -> tuple[str, str, str] | None:
        """What can differ between the protocols of FIDs during training: number of pictures, data and direction; None if it is
        unknown.
        """
        samples = self.params.get("train.fid_samples")
        measured = next((figure.protocol for figure in self.figures.values() if figure.name == "fid"), None)
        return (samples, measured.dataset_digest, measured.direction) if samples and measured else None


def find_side(name: str, checkout: Checkout, settings: Settings, *, draw: bool = False) -> Side:
    """Find what ``name`` names: the id or the name of a run of the pipeline, a registered version, or a revision of git or DVC.

    Args:
        name: what to find.
        checkout: whose git repository and DVC cache hold the revisions.
        settings: where runs and versions are.
        draw: whether to draw :data:`GRID` with the generator of a version, also of the one that a run registered.

    Raises:
        TrackingError: there is no such thing, the run was deleted in MLflow, or the server cannot be reached.
        StageError: the figures are damaged or of another edition of Gantry.
    """
    uri, experiment = settings.track.uri, settings.track.experiment
    key = name if re.fullmatch(r"[A-Za-z0-9_.:/=+-]{1,200}", name) else ""
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _of_run(name, name, uri, draw=draw)
    if key and "@" not in name and (run := find_run(uri, experiment, key)):
        return _of_run(name, run.run_id, uri, draw=draw)
    if commit := _commit(name, checkout):
        return _of_revision(name, commit, checkout)
    if run_id := _run_shown_as(name, uri, experiment):
        return _of_run(name, run_id, uri, draw=draw)
    with explain_server_errors(uri):
        try:
            version = find_version(name, uri)
        except TrackingError as error:
            raise TrackingError(
                f"There is no run, registered version, revision or DVC experiment '{name}': {error}"
            ) from error
        with version_files(version, uri) as folder:
            files = {place: path.read_bytes() for place in FILES if (path := folder / Path(place).name).is_file()}
            grid = _grid(folder, version) if draw else {}
    of_run = Side(name=name, kind="run")
    missing: tuple[str, ...] = ("settings and cost (its run is gone)",)
    if version.run_id:
        with suppress(TrackingError):
            of_run, missing = _of_run(name, str(version.run_id), uri), ()
    # What the run lacks is not told: the figures are those of the version's own files.
    own = _side(f"{version.name}/{version.version}", "version", files, of_run.params, of_run.cost, missing)
    return replace(own, pictures={**of_run.pictures, **own.pictures, **grid}, curves=own.curves or of_run.curves)


def _grid(folder: Path, version: "ModelVersion") -> dict[str, bytes]:
    """A grid of a version's generator, if it makes pictures from noise."""
    generator = load_generator(find_generator(folder, version), choose_device())
    if generator.translates:
        return {}
    with TemporaryDirectory(prefix="gantry-compare-") as temporary:
        path = Path(temporary) / GRID
        save_sheet(path, generator.sample(GRID_PICTURES, GRID_SEED))
        return {GRID: path.read_bytes()}


def _run_shown_as(name: str, uri: str, experiment: str) -> str:
    """The id of the run with the name that MLflow's page shows; empty if there is none.

    Raises:
        TrackingError: several runs have that name, or the server cannot be reached.
    """
    if not name.isprintable() or {"'", '"', "\\"} & set(name):  # MLflow's query cannot quote them
        return ""
    with explain_server_errors(uri):
        client = connect(uri, create=False)
        known = client.get_experiment_by_name(experiment)
        found = client.search_runs([known.experiment_id], f"attributes.run_name = '{name}'") if known else []
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found[:5])
        raise TrackingError(f"{len(found)} runs have the name '{name}'. Give the id of one of them: {ids}.")
    return str(found[0].info.run_id) if found else ""


def _of_run(name: str, run_id: str, uri: str, *, draw: bool = False) -> Side:
    from mlflow.exceptions import MlflowException

    with explain_server_errors(uri):
        client = connect(uri, create=False)
        try:
            run = _top(client, run_id)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            raise TrackingError(f"There is no run '{run_id}' in MLflow.") from None
        if run.info.lifecycle_stage == "deleted":
            raise TrackingError(
                f"The run {run.info.run_id} was deleted in MLflow. To compare it, restore it: "
                f"mlflow runs restore --run-id {run.info.run_id}"
            )
        wanted = {Path(place).name: place for place in FILES}
        listed = [file for file in client.list_artifacts(run.info.run_id) if file.path in wanted]
        files, missing = {}, []
        with TemporaryDirectory(prefix="gantry-compare-") as folder:
            for file in listed:
                if (file.file_size or 0) > _LARGEST_FILE:
                    missing.append(f"{file.path} ({_too_large()})")
                    continue
                path = client.download_artifacts(run.info.run_id, file.path, folder)
                files[wanted[file.path]] = Path(path).read_bytes()
        grid: dict[str, bytes] = {}
        for version in client.search_model_versions(f"run_id = '{run.info.run_id}'", max_results=1) if draw else ():
            with version_files(version, uri) as version_folder:
                grid = _grid(version_folder, version)
    cost = {key: value for key, value in run.data.metrics.items() if key.startswith(COST)}
    title = name if name != run_id else f"{run.info.run_name} ({run_id[:8]})"
    side = _side(title, "run", files, run.data.params, cost, tuple(missing))
    return replace(side, pictures={**side.pictures, **grid})


def _top(client: Any, run_id: str) -> "Run":
    """The run of the pipeline that ``run_id`` belongs to.

    Raises:
        TrackingError: ``run_id`` is the run of a trial, whose settings and figures are not those of the pipeline.
    """
    run = client.get_run(run_id)
    if run.data.tags.get(STAGE_TAG) == TRIAL:
        raise TrackingError(
            f"{run_id} is the run of a trial, which has no figures with a protocol. Name the run of the pipeline or of a "
            "stage, or compare trials on MLflow's page (gantry ui)."
        )
    while parent := run.data.tags.get(PARENT_TAG):
        run = client.get_run(parent)
    return run


def _commit(name: str, checkout: Checkout) -> str:
    """The commit of a revision or of a DVC experiment; empty if there is none.

    Raises:
        TrackingError: several experiments have that name.
    """
    try:
        found = run_git(
            checkout.root,
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{name}^{{commit}}",
            empty_on=(1, 128),
        )
        if found:
            return found
        listed = run_git(checkout.root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    except GitError:  # not a git repository
        return ""
    named = [line.split(" ") for line in listed.splitlines() if line.rpartition("/")[2] == name]
    if len({commit for commit, _ in named}) > 1:  # one on each of several commits
        known = ", ".join(f"{commit[:12]} ({reference})" for commit, reference in named[:5])
        raise TrackingError(
            f"{len(named)} DVC experiments have the name '{name}'. Give the commit of one of them: {known}."
        )
    return named[0][0] if named else ""


def _of_revision(name: str, commit: str, checkout: Checkout) -> Side:
    import dvc.api
    from dvc.exceptions import DvcException

    files, missing = {}, []
    locked = run_git(checkout.root, "ls-tree", "--name-only", commit, "dvc.lock")
    away = (
        "not in DVC's cache (dvc pull)"
        if locked
        else "not in this revision, which has no dvc.lock: commit it after a run"
    )

    def read(place: str) -> bytes | None:
        try:
            with dvc.api.open(place, repo=str(checkout.root), rev=commit, mode="rb") as file:
                content = file.read(_LARGEST_FILE + 1)
        except (DvcException, OSError) as error:
            missing.append(f"{place} ({'not in this revision' if isinstance(error, FileNotFoundError) else away})")
            return None
        if len(content) > _LARGEST_FILE:
            missing.append(f"{place} ({_too_large()})")
            return None
        return content

    for place in FILES:
        if (content := read(place)) is not None:
            files[place] = content
    params: dict[str, str] = {}
    if (text := read(PARAMS)) is not None:
        values = yaml.safe_load(text)
        try:
            parsed = parse_settings(values)
            if (best := read(BEST)) is not None:
                parsed = parsed.with_values(yaml.safe_load(best)["parameters"])
            sections = parsed.as_dict()
            if parsed.train.minutes is not None:
                sections["train"]["steps"] = last_step(io.BytesIO(files.get(CURVES, b""))) or "unknown"
            params = texts(flatten({name: sections[name] for name in _SECTIONS}))
        except (GantryError, LookupError, TypeError) as error:
            missing.append(f"settings ({error})")
    missing.append("cost (a revision has none; name the run in MLflow)")
    return _side(name, "revision", files, params, {}, tuple(missing))


def _too_large() -> str:
    return f"larger than {format_bytes(_LARGEST_FILE)}"


def _side(
    name: str,
    kind: str,
    files: Mapping[str, bytes],
    params: Mapping[str, str],
    cost: Mapping[str, float],
    missing: tuple[str, ...],
) -> Side:
    figures: dict[str, Figure] = {}
    if METRICS in files:
        with TemporaryDirectory(prefix="gantry-compare-") as folder:
            path = Path(folder) / Path(METRICS).name
            path.write_bytes(files[METRICS])
            try:
                figures = {figure_title(figure): figure for figure in read_figures(path)}
            except StageError as error:
                reason = (
                    str(error).replace(str(path), f"{Path(METRICS).name} of {name}").partition(" Remove the file")[0]
                )
                raise StageError(
                    f"{reason} It is damaged, or of another edition of Gantry: evaluate it again with this one."
                ) from error
    else:
        missing = (*missing, f"{Path(METRICS).name}, so it has no figures with a protocol")
    pictures = {
        Path(place).name: files[place]
        for place in (SAMPLES, NEIGHBOURS)
        if files.get(place, b"")[:8] == b"\x89PNG\r\n\x1a\n"
    }
    return Side(
        name=name,
        kind=kind,
        params=dict(params),
        figures=figures,
        cost=dict(cost),
        pictures=pictures,
        curves=_curves(files),
        missing=missing,
    )


def _curves(files: Mapping[str, bytes]) -> dict[str, list[tuple[float, float]]]:
    """The curves by kimg. The FID has steps only; its kimg are in proportion to those of the other curves."""
    rows = list(_rows(files.get(CURVES, b"")))
    if not rows:
        return {}
    per_step = rows[-1].get("progress_kimg", math.nan) / max(rows[-1].get("step", 1), 1)
    names = [name for name in rows[-1] if name not in ("step", "progress_kimg")]
    curves = {
        name: [(row["progress_kimg"], row[name]) for row in rows if {"progress_kimg", name} <= set(row)]
        for name in names
    }
    curves["fid"] = [(row["step"] * per_step, row["fid"]) for row in _rows(files.get(FID_CURVE, b"")) if "fid" in row]
    return {name: points for name, points in curves.items() if len(points) > 1}


def _rows(table: bytes) -> Iterator[dict[str, float]]:
    number: Callable[[str], float] = float
    for row in csv.DictReader(io.StringIO(table.decode("utf-8", "replace"))):
        values = {}
        for name, text in row.items():
            with suppress(ValueError, TypeError):
                if math.isfinite(value := number(text)):
                    values[str(name)] = value
        if "step" in values:
            yield values
