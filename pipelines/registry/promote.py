"""Promotion: moving the alias ``champion``, only to what was measured to be better by the same protocol, and back."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gan_core.errors import GantryError, TrackingError
from gan_core.inference.manifest import MANIFEST, check_manifest
from gan_core.metrics.protocol import Figure
from pipelines.registry.champion import CHAMPION, current_ledger, move_champion, registered_model
from pipelines.registry.contents import MANIFEST_TAG, contradiction, fetch, read_figure, version_files
from pipelines.registry.gate import IncomparableError, judge
from pipelines.registry.ledger import Ledger, Move, check_reason
from pipelines.registry.register import CHALLENGER
from pipelines.registry.verify import Evidence, Report, verify, versions
from pipelines.tracking.store import connect, is_refusal, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["CHAMPION", "check_ledger", "history", "promote", "rollback"]


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

    The gate asks for a lower figure by the same protocol, read from the files of both versions. Whether it is lower by more
    than noise is told and kept in the ledger, and stops nobody: intervals of few pictures are wide, and what they hide may
    be an improvement all the same.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        version: which version; the one with the alias ``challenger`` by default.
        force: pass over the gates; needs a reason.
        reason: why, for the ledger.
        measure: gives the figure of a version number as it is measured here and now. Where a version has no figure that
            compares (the data has grown since, say), this one counts in its place.

    Returns:
        The move as the ledger has it, or None when the version is champion already.

    Raises:
        TrackingError: a gate is shut (another protocol, or a figure that is not lower): names each difference; no such
            version; forced without a reason; the server cannot be reached.
        CheckpointError: the files of the version are not what was registered.
        GantryError: what ``measure`` raises.
    """
    reason = check_reason(reason)
    if force and not reason:
        raise TrackingError('A forced promotion needs a reason for the ledger: --force --reason "why".')
    anew: dict[str, Figure] = {}
    while True:
        try:
            return _promote(name, tracking_uri, version, force, reason, anew)
        except IncomparableError as error:
            if measure is None or error.version in anew:
                raise
            # It takes minutes, and meanwhile another version may become champion: all is looked at again.
            anew[error.version] = measure(error.version)


def _promote(
    name: str, tracking_uri: str, version: str | None, force: bool, reason: str | None, anew: Mapping[str, Figure]
) -> Move | None:
    """One attempt; ``anew`` has the figures of versions that were measured here, see :func:`promote`."""
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)

        def decide(ledger: Ledger) -> Move | None:
            challenger = _version(client, name, version)
            if ledger.champion == str(challenger.version):
                return None
            champion = _version(client, name, ledger.champion) if ledger.champion else None
            verdict = judge(name, challenger, champion, tracking_uri=tracking_uri, force=force, anew=anew)
            return ledger.next_move(
                "promote",
                version=str(challenger.version),
                reason=reason or verdict.found or "the first champion",
                forced=force,
                found=verdict.found,
                within_noise=verdict.within_noise,
                metrics=verdict.metrics,
            )

        return move_champion(client, name, decide)


def rollback(name: str, *, tracking_uri: str, reason: str | None = None) -> Move:
    """Undo the promotion that made the present champion, and give the alias back to the one before.

    Raises:
        TrackingError: there is no champion; the ledger does not know how it became one, or was changed there; the one
            before is gone.
        CheckpointError: the files of the one before are not what was registered.
    """
    reason = check_reason(reason)
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)

        def decide(ledger: Ledger) -> Move:
            if ledger.champion is None:
                raise TrackingError(f"'{name}' has no champion to roll back.")
            undone = ledger.to_undo()
            if undone is None:
                raise TrackingError(
                    f"Version {ledger.champion} of '{name}' became champion without `gantry promote`, so there is nothing "
                    'to undo. Name the version you want: gantry promote --version V --force --reason "why".'
                )
            if undone.previous is not None:
                with version_files(_version(client, name, undone.previous), tracking_uri):
                    pass  # they are what was registered
            return ledger.next_move(
                "rollback",
                version=undone.previous,
                reason=reason or f"undoes the promotion of {undone.at}",
                undoes=undone.id,
            )

        move = move_champion(client, name, decide)
    assert move is not None, "a rollback that changes nothing raises"
    return move


def history(name: str, *, tracking_uri: str) -> Ledger:
    """Every move of the champion of ``name``, and who it is; raises TrackingError when there is no such model."""
    with reaching(tracking_uri):
        return current_ledger(connect(tracking_uri, make=False), name)


def check_ledger(name: str, *, tracking_uri: str, expected: str | None = None) -> Report:
    """Compare the ledger of ``name`` with itself, with the alias and with the files of the versions in it.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        expected: digest, or how it begins, of an entry that the chain must hold.

    Raises:
        TrackingError: there is no such model; the server cannot be reached.
    """
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)
        ledger = current_ledger(client, name)
        evidence = {number: _evidence(client, name, number, tracking_uri) for number in versions(ledger)}
    return verify(ledger, evidence, expected=expected)


def _evidence(client: "MlflowClient", name: str, number: str, tracking_uri: str) -> Evidence:
    """What the files of a version say, whatever is wrong with them."""
    try:
        version = client.get_model_version(name, number)
    except Exception as error:
        if not is_refusal(error):
            raise
        return Evidence(metrics=None, gone=True)
    with tempfile.TemporaryDirectory(prefix="gantry-version-") as temporary:
        try:
            folder = fetch(version, tracking_uri, Path(temporary))
            figure, digest = read_figure(folder, version)
        except GantryError as error:
            return Evidence(metrics=None, why=str(error).rstrip("."))
        try:
            if MANIFEST_TAG in version.tags or (folder / MANIFEST).is_file():
                check_manifest(folder, version.tags.get(MANIFEST_TAG))
        except GantryError as error:
            return Evidence(metrics=digest, why=str(error).rstrip("."))
        return Evidence(metrics=digest, why=contradiction(version, figure))


def _version(client: "MlflowClient", name: str, version: str | None) -> "ModelVersion":
    """A version by its number, or the challenger; raises TrackingError where there is none."""
    if version is None:
        # Aliases are read from the model: asking for one that is not set is an error like any other.
        version = registered_model(client, name).aliases.get(CHALLENGER)
        if not version:
            raise TrackingError(
                f"'{name}' has no challenger. Run the pipeline, or name a version: gantry promote --version V."
            )
    registered_model(client, name)
    try:
        return client.get_model_version(name, str(version))
    except Exception as error:
        if not is_refusal(error):
            raise
        known = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        raise TrackingError(
            f"'{name}' has no version {version}; it has {', '.join(map(str, known)) or 'none'}."
        ) from None
