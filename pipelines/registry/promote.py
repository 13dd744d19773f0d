"""Promote a version to champion if it is measurably better by the same protocol, and roll back."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import GantryError, TrackingError
from gan_core.inference.manifest import MANIFEST, check_manifest
from gan_core.metrics.protocol import Figure
from pipelines.registry.champion import CHAMPION, current_ledger, get_registered_model, move_champion
from pipelines.registry.contents import MANIFEST_TAG, download_files, find_tag_mismatch, read_figure, version_files
from pipelines.registry.gate import IncomparableError, check_promotion
from pipelines.registry.ledger import Ledger, Move, check_reason
from pipelines.registry.register import CHALLENGER
from pipelines.registry.verify import Evidence, Report, promoted_versions, verify
from pipelines.tracking.store import connect, explain_server_errors, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["CHAMPION", "load_ledger", "promote", "rollback", "verify_ledger"]


def promote(
    name: str,
    *,
    tracking_uri: str,
    version: str | None = None,
    force: bool = False,
    reason: str | None = None,
    measure: Callable[[str], Figure] | None = None,
) -> Move | None:
    """Make a version of ``name`` the champion.

    The gate requires a lower figure by the same protocol, read from the files of both versions. The ledger also records
    whether the difference exceeds the noise, but an improvement within the noise is promoted too: with few pictures the
    intervals are wide and would hide real improvements.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        version: the version to promote; by default, the one with the alias ``challenger``.
        force: skip the gate; requires a reason.
        reason: reason to store in the ledger.
        measure: measures the version with a given number on the current data. Used if a version has no comparable figure,
            for example because the data has grown.

    Returns:
        The move as stored in the ledger, or None if the version is already champion.

    Raises:
        TrackingError: the figure is not lower, or the protocols differ (names each difference); no such version; forced
            without a reason; the server cannot be reached.
        CheckpointError: the files of the version do not match the registration.
        GantryError: whatever ``measure`` raises.
    """
    reason = check_reason(reason)
    if force and not reason:
        raise TrackingError('A forced promotion needs a reason for the ledger: --force --reason "why".')
    remeasured: dict[str, Figure] = {}
    while True:
        try:
            return _promote(name, tracking_uri, version, force, reason, remeasured)
        except IncomparableError as error:
            if measure is None or error.version in remeasured:
                raise
            # Measuring takes minutes, in which another version may become champion: the loop checks everything again.
            remeasured[error.version] = measure(error.version)


def _promote(
    name: str, tracking_uri: str, version: str | None, force: bool, reason: str | None, remeasured: Mapping[str, Figure]
) -> Move | None:
    """One attempt; ``remeasured`` holds the figures that ``measure`` of :func:`promote` gave, by version."""
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)

        def decide(ledger: Ledger) -> Move | None:
            challenger = _version(client, name, version)
            if ledger.champion == str(challenger.version):
                return None
            champion = _version(client, name, ledger.champion) if ledger.champion else None
            comparison = check_promotion(
                name, challenger, champion, tracking_uri=tracking_uri, force=force, remeasured=remeasured
            )
            return ledger.next_move(
                "promote",
                version=str(challenger.version),
                reason=reason or comparison.found or "the first champion",
                forced=force,
                found=comparison.found,
                within_noise=comparison.within_noise,
                metrics=comparison.metrics,
            )

        return move_champion(client, name, decide)


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
                raise TrackingError(f"'{name}' has no champion to roll back.")
            undone = ledger.promotion_to_undo()
            if undone is None:
                raise TrackingError(
                    f"Version {ledger.champion} of '{name}' became champion without `gantry promote`, so the previous "
                    'champion is unknown. Choose a version: gantry promote --version V --force --reason "why".'
                )
            if undone.previous is not None:
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
        return current_ledger(connect(tracking_uri, create=False), name)


def verify_ledger(name: str, *, tracking_uri: str, expected: str | None = None) -> Report:
    """Check the ledger of ``name``: its hash chain, the alias, and the files of the versions in it.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        expected: digest, or its beginning, that an entry of the chain must have.

    Raises:
        TrackingError: there is no such model; the server cannot be reached.
    """
    with explain_server_errors(tracking_uri):
        client = connect(tracking_uri, create=False)
        ledger = current_ledger(client, name)
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
        try:
            folder = download_files(version, tracking_uri, Path(temporary))
            figure, digest = read_figure(folder, version)
        except GantryError as error:
            return Evidence(metrics=None, why=str(error).rstrip("."))
        try:
            if MANIFEST_TAG in version.tags or (folder / MANIFEST).is_file():
                check_manifest(folder, version.tags.get(MANIFEST_TAG))
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
