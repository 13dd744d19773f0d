"""Promote a version to champion if it passes the gates, and roll back."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gan_core.errors import GantryError, TrackingError
from gan_core.files import sha256_file
from gan_core.metrics.assess import Assessment
from pipelines.registry.card import describe_gates
from pipelines.registry.champion import (
    CHAMPION,
    current_ledger,
    explain_last,
    get_registered_model,
    has_version,
    move_champion,
)
from pipelines.registry.contents import (
    CHALLENGER,
    METRICS,
    check_files,
    download_files,
    find_tag_mismatch,
    read_figure,
    version_files,
)
from pipelines.registry.gate import Comparison, IncomparableError, judge, lines, refuse_blocked
from pipelines.registry.ledger import Ledger, Move, check_reason
from pipelines.registry.measured import Measured, read_version
from pipelines.registry.verify import Evidence, Report, promoted_versions, verify
from pipelines.settings.promote import OBJECTIVE_ONLY, PromoteSettings
from pipelines.tracking.store import connect, error_summary, explain_server_errors, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["CHAMPION", "check_gates", "load_ledger", "promote", "rollback", "verify_ledger"]

Measure = Callable[[str], Assessment]
"""Measures the version with a given number on the current data."""
_Result = TypeVar("_Result")
_FIRST, _NO_CHAMPION = "the first champion", "there was no champion"
"""Reasons of a promotion without a champion to compare with."""
_LOG = logging.getLogger(__name__)


def promote(
    name: str,
    *,
    tracking_uri: str,
    version: str | None = None,
    gates: PromoteSettings = OBJECTIVE_ONLY,
    force: bool = False,
    reason: str | None = None,
    measure: Measure | None = None,
) -> Move | None:
    """Make a version of ``name`` the champion if it passes the gates (:mod:`pipelines.registry.gate`).

    The gates read the files of both versions. The ledger records the verdict of each, and whether the objective differs by
    more than the noise.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        version: the version to promote; by default, the one with the alias ``challenger``.
        gates: settings of the gates; by default, only the objective is compared.
        force: promote even if gates block; requires a reason.
        reason: reason to store in the ledger.
        measure: used if a version lacks a figure, or its figures are not comparable, for example because the data has grown.

    Returns:
        The move as stored in the ledger, or None if the version is already champion.

    Raises:
        TrackingError: a gate failed or could not be judged (names each); no such version; forced without a reason; the
            server cannot be reached.
        CheckpointError: the files of the version do not match the registration.
        GantryError: ``measure`` failed.
    """
    reason = check_reason(reason)
    if force and not reason:
        raise TrackingError('A forced promotion needs a reason for the ledger: --force --reason "why".')

    def attempt(remeasured: Mapping[str, Assessment]) -> Move | None:
        return _promote(name, tracking_uri, version, gates, force, reason, remeasured)

    return _measuring(attempt, measure)


def check_gates(
    name: str,
    *,
    tracking_uri: str,
    version: str | None = None,
    gates: PromoteSettings = OBJECTIVE_ONLY,
    measure: Measure | None = None,
) -> Comparison:
    """The verdicts of all gates on a version, without promoting it; none on the champion itself. For the arguments and errors
    see :func:`promote`."""

    def attempt(remeasured: Mapping[str, Assessment]) -> Comparison:
        with explain_server_errors(tracking_uri):
            client = connect(tracking_uri, create=False)
            ledger = current_ledger(client, name)
            challenger = _version(client, name, version)
            found = _compare(client, name, challenger, ledger.champion, tracking_uri, gates, remeasured)
        if ledger.champion == str(challenger.version):
            return replace(found, is_champion=True, verdicts=())
        if measure is not None:
            lacking = [v.measure for v in found.blocking if v.measure and v.measure not in remeasured]
            if lacking:
                raise IncomparableError(found.blocking[0].found, lacking[0])
        return found

    return _measuring(attempt, measure)


def _measuring(attempt: Callable[[Mapping[str, Assessment]], _Result], measure: Measure | None) -> _Result:
    """Call ``attempt`` with the versions measured so far until it needs no further one measured."""
    remeasured: dict[str, Assessment] = {}
    while True:
        try:
            return attempt(remeasured)
        except IncomparableError as error:
            if measure is None or error.version in remeasured:
                raise
            # Measuring takes minutes, in which another version may become champion: the loop checks everything again.
            remeasured[error.version] = measure(error.version)


def _promote(
    name: str,
    tracking_uri: str,
    version: str | None,
    gates: PromoteSettings,
    force: bool,
    reason: str | None,
    remeasured: Mapping[str, Assessment],
) -> Move | None:
    """One attempt; ``remeasured`` holds what ``measure`` of :func:`promote` gave, by version."""
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)

        def decide(ledger: Ledger) -> Move | None:
            challenger = _version(client, name, version)
            if ledger.champion == str(challenger.version):
                return None
            found = _compare(client, name, challenger, ledger.champion, tracking_uri, gates, remeasured)
            if not force:
                refuse_blocked(found)
            return ledger.next_move(
                "promote",
                version=str(challenger.version),
                reason=reason
                or found.found
                or ("passed the gates" if ledger.champion else _NO_CHAMPION if ledger.entries else _FIRST),
                forced=force,
                found="" if force else found.found,
                within_noise=None if force else found.within_noise,
                metrics=found.challenger.metrics,
                gates=lines(found.verdicts),
            )

        move = move_champion(client, name, decide)
        if move is not None:
            _show_verdicts(client, name, move)
        return move


def _show_verdicts(client: "MlflowClient", name: str, move: Move) -> None:
    """Add the verdicts to the description of the promoted version, which MLflow's page shows. The ledger is what counts."""
    try:
        described = client.get_model_version(name, str(move.version)).description or ""
        client.update_model_version(name, str(move.version), describe_gates(described, move))
    except Exception as error:  # of any kind: the champion has moved, and an error here would say that it has not
        _LOG.warning(
            "The verdicts are in the ledger, but not in the description of version %s: %s.",
            move.version,
            error_summary(error),
        )


def _compare(
    client: "MlflowClient",
    name: str,
    challenger: "ModelVersion",
    champion: str | None,
    tracking_uri: str,
    gates: PromoteSettings,
    remeasured: Mapping[str, Assessment],
) -> Comparison:
    """The verdicts on ``challenger`` against ``champion``, the number of the current champion."""
    sides: list[Measured | None] = [read_version(challenger, tracking_uri)]
    if champion and champion != str(challenger.version):
        sides.append(read_version(_version(client, name, champion), tracking_uri, damaged=True))
    else:
        sides.append(None)
    new, old = (
        side.measured_again(remeasured[side.version]) if side and side.version in remeasured else side for side in sides
    )
    assert new is not None
    return judge(new, old, gates)


def rollback(name: str, *, tracking_uri: str, reason: str | None = None) -> Move:
    """Undo the promotion of the current champion: the previous champion gets the alias back.

    Raises:
        TrackingError: there is no champion; the ledger has no promotion of it, or its entry was modified; the previous
            champion was deleted.
        CheckpointError: the files of the previous champion do not match the registration.
    """
    reason = check_reason(reason)
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)

        def decide(ledger: Ledger) -> Move:
            if ledger.champion is None:
                if deleted := explain_last(client, name, ledger).deleted:
                    raise TrackingError(
                        f"The champion of '{name}', version {', '.join(deleted)}, was deleted, so it cannot be rolled back. "
                        "Choose another version: gantry promote --version V."
                    )
                raise TrackingError(f"'{name}' has no champion to roll back.")
            undone = ledger.promotion_to_undo()
            if undone is None:
                raise TrackingError(
                    f"Version {ledger.champion} of '{name}' became champion without `gantry promote`, so the previous "
                    'champion is unknown. Choose a version: gantry promote --version V --force --reason "why".'
                )
            if undone.previous is not None:
                if not has_version(client, name, undone.previous):
                    raise TrackingError(
                        f"The champion of '{name}' before version {ledger.champion} was version {undone.previous}, which was "
                        'deleted. Choose another version: gantry promote --version V --force --reason "why".'
                    )
                with version_files(_version(client, name, undone.previous), tracking_uri):
                    pass  # raises if a file does not match the registration
            return ledger.next_move(
                "rollback",
                version=undone.previous,
                reason=reason or f"undoes the promotion of {undone.at}",
                undoes=undone.id,
            )

        move = move_champion(client, name, decide)
    assert move is not None, "decide returns a move or raises"
    return move


def load_ledger(name: str, *, tracking_uri: str) -> Ledger:
    """The ledger of ``name``: every move of the champion; raises TrackingError if there is no such model."""
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)
        return explain_last(client, name, current_ledger(client, name))


def verify_ledger(name: str, *, tracking_uri: str, expected: str | None = None) -> Report:
    """Check the ledger of ``name``: its hash chain, the alias, and the files of the versions in it.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        expected: digest, or its first 8 or more digits, that an entry of the chain must have.

    Raises:
        SettingsError: ``expected`` is no such digest.
        TrackingError: there is no such model; the server cannot be reached.
    """
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)
        ledger = explain_last(client, name, current_ledger(client, name))
        evidence = {number: _evidence(client, name, number, tracking_uri) for number in promoted_versions(ledger)}
    return verify(ledger, evidence, expected=expected)


def _evidence(client: "MlflowClient", name: str, number: str, tracking_uri: str) -> Evidence:
    """State of the files of a version; damage is recorded, not raised."""
    try:
        version = client.get_model_version(name, number)
    except Exception as error:
        if not is_refusal(error):
            raise
        return Evidence(metrics=None, gone=True)
    with tempfile.TemporaryDirectory(prefix="gantry-version-") as temporary:
        digest = None
        try:
            folder = download_files(version, tracking_uri, Path(temporary))
            if (folder / METRICS).is_file():  # before it is read: the figures may be as they were, and the weights not
                digest = sha256_file(folder / METRICS)
            figure, digest = read_figure(folder, version)
        except GantryError as error:
            return Evidence(metrics=digest, why=str(error).rstrip("."))
        try:
            check_files(folder, version)
        except GantryError as error:
            return Evidence(metrics=digest, why=str(error).rstrip("."))
        return Evidence(metrics=digest, why=find_tag_mismatch(version, figure))


def _version(client: "MlflowClient", name: str, version: str | None) -> "ModelVersion":
    """A version by its number, by default the challenger; raises TrackingError if it does not exist."""
    if version is None:
        # Read aliases from the model: MLflow's error for a missing alias is the same as for any bad request.
        version = get_registered_model(client, name).aliases.get(CHALLENGER)
        if not version:
            raise TrackingError(
                f"'{name}' has no challenger. Run the pipeline (gantry run), or name a version: gantry promote --version V."
            )
    get_registered_model(client, name)
    try:
        return client.get_model_version(name, str(version))
    except Exception as error:
        if not is_refusal(error):
            raise
        known = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        raise TrackingError(
            f"'{name}' has no version {version}; it has {', '.join(map(str, known)) or 'none'}."
        ) from None
