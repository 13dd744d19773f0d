"""Whether the data has changed enough to train again (``flow.train_above``), for runs that a schedule starts.

After ingestion, the prepared data is compared with the data of the champion, or of the newest version if there is none. If
nothing else has changed since, and no bound is exceeded, the other stages are skipped.
"""

import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gan_core.errors import TrackingError
from gan_core.files import read_json
from pipelines.flow.process import run_streaming
from pipelines.flow.workspace import Workspace
from pipelines.registry.contents import version_files
from pipelines.registry.find import NOT_YET, REGISTERED, find_version
from pipelines.runtime.checkout import DVC_LOCK, PREPARED, Checkout
from pipelines.runtime.dvc_repo import open_project
from pipelines.runtime.dvc_yaml import parse_as_dvc
from pipelines.settings.flow import TrainAbove
from pipelines.settings.params import read_params
from pipelines.settings.tracking_uri import project_tracking_uri
from pipelines.tracking.store import explain_server_errors

FIRST_STAGE = "ingest"
"""The stage after which the data is compared."""
_TRAINED = ("tune", "train")
"""Stages whose other inputs, besides the data, must be as they were."""
_COMMAND = "from pipelines.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to train, and why."""

    train: bool
    reason: str
    """With what was measured and the bounds."""


def judge_change(
    workspace: Workspace, bounds: TrainAbove, *, on_line: Callable[[str], None], stop: threading.Event | None = None
) -> Verdict:
    """Compare the prepared data of ``workspace`` with that of the champion.

    Args:
        workspace: its stage ``ingest`` has run.
        bounds: the bounds.
        on_line: called with each line that the comparison prints.
        stop: ends the comparison when another thread sets it.

    Raises:
        TrackingError: the registry cannot be reached.
        ProcessStoppedError: ``stop`` was set.
    """
    checkout = workspace.checkout
    name = (read_params(checkout.params).get("register") or {}).get("name") or "gantry"
    uri = workspace.environment.get("GANTRY_TRACKING_URI") or project_tracking_uri(checkout.root)
    reference = _reference(name, uri) if uri else None
    if reference is None:
        return Verdict(train=True, reason=f"{name} has no version yet, so there is no data to compare with")
    version, lock = reference
    if changed := other_changes(lock, checkout):
        return Verdict(train=True, reason=f"besides the data, {changed} has changed since {version}")
    with tempfile.TemporaryDirectory(prefix="gantry-change-") as scratch:
        found, said = Path(scratch) / "diff.json", list[str]()

        def keep(line: str) -> None:
            said.append(line)
            on_line(line)

        options = ["--n", str(bounds.samples), "--output", str(found)]
        if bounds.fid is None and bounds.uncovered is None:
            options.append("--no-figures")
        status = run_streaming(
            [sys.executable, "-c", _COMMAND, "data", "diff", f"{REGISTERED}{version}", PREPARED, *options],
            cwd=checkout.root,
            environment=workspace.environment,
            on_line=keep,
            stop=stop,
        )
        if status:
            why = said[-1].removeprefix("error: ") if said else f"status {status}"
            return Verdict(train=True, reason=f"the data cannot be compared with that of {version}: {why}")
        return judge(read_json(found), bounds, version)


def judge(diff: Mapping[str, Any], bounds: TrainAbove, version: str) -> Verdict:
    """Whether a difference (:meth:`DataDiff.as_dict`) exceeds one of ``bounds``; ``version``: what it was compared with."""
    if diff["same"]:
        return Verdict(train=False, reason=f"the data is that of {version}")
    figures = {figure["name"]: figure["value"] for figure in diff["figures"]}
    coverage = figures.get("coverage")
    values = {
        "share": diff["share"],
        "fid": figures.get("fid"),
        "uncovered": None if coverage is None else 1 - coverage,
    }
    told, above = [], False
    for name, bound in asdict(bounds).items():
        if name not in values or bound is None:
            continue
        value = values[name]
        if value is None:  # too few pictures, for example: rather train than overlook a change
            above = True
            told.append(f"{name} was not measured ({diff['omitted'].get('coverage', 'unknown')})")
            continue
        above = above or value > bound
        told.append(f"{name} {value:.4g} (bound {bound:g})")
    how = "exceeds a bound" if above else "is within the bounds"
    return Verdict(train=above, reason=f"the change of the data since {version} {how}: {', '.join(told)}")


def other_changes(lock: str, checkout: Checkout) -> str:
    """The first input of tune or train, other than the data, that differs from the dvc.lock ``lock``; empty if none does."""
    known = parse_as_dvc(lock, DVC_LOCK).get("stages") or {}
    with open_project(checkout) as repo:
        from dvc.dependency import ParamsDependency
        from dvc.exceptions import DvcException

        for name in _TRAINED:
            if name not in known:
                return f"stage {name}"
            before = {dep["path"]: dep.get("md5") for dep in known[name].get("deps") or ()}
            params = known[name].get("params") or {}
            stage = repo.stage.load_one(path=str(checkout.dvc_yaml), name=name)
            if stage.cmd != known[name].get("cmd"):
                return f"the command of stage {name}"
            for dep in stage.deps:
                place = checkout.place(dep.fs_path)
                if place == PREPARED or place.startswith("outputs/"):
                    continue
                try:
                    value = dep.get_hash().value
                except DvcException:
                    return place
                if isinstance(dep, ParamsDependency):
                    was = params.get(place) or {}
                    for section, now in value.items():
                        if was.get(section) != now:
                            return f"{section} in {place}"
                elif before.get(place) != value:
                    return place
    return ""


def _reference(name: str, uri: str) -> tuple[str, str] | None:
    """The champion of ``name``, else its challenger or newest version, with its dvc.lock; None if there is no version."""
    try:
        with explain_server_errors(uri):
            version = find_version(name, uri)
            with version_files(version, uri) as files:
                lock = files / DVC_LOCK
                text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    except TrackingError as error:
        if any(of in str(error) for of in NOT_YET):
            return None
        raise
    return f"{version.name}/{version.version}", text
