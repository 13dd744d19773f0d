"""Promotion: moving the alias ``champion``, only to what was measured to be better by the same protocol, and back."""

import json
from typing import TYPE_CHECKING

from gan_core.config import build
from gan_core.errors import SettingsError, TrackingError
from gan_core.metrics.protocol import Protocol
from pipelines.registry.ledger import Move, as_tag, from_tags, new_move, to_undo
from pipelines.registry.register import CHALLENGER, FIGURE, PROTOCOL, VALUE
from pipelines.tracking.store import connect, is_refusal, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION = "champion"


def promote(
    name: str, *, tracking_uri: str, version: str | None = None, force: bool = False, reason: str | None = None
) -> Move | None:
    """Make a version of ``name`` the champion.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        version: which version; the one with the alias ``challenger`` by default.
        force: pass over the gates; needs a reason.
        reason: why, for the ledger.

    Returns:
        The move as the ledger has it, or None when the version is champion already.

    Raises:
        TrackingError: a gate is shut (another protocol, or a figure that is not lower): names each difference; no such
            version; forced without a reason; the server cannot be reached.
    """
    if force and not (reason or "").strip():
        raise TrackingError('A forced promotion needs a reason for the ledger: --force --reason "why".')
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)
        challenger = _version(client, name, version)
        champion = _by_alias(client, name, CHAMPION)
        if champion is not None and champion.version == challenger.version:
            return None
        better = "the first champion"
        if champion is not None and not force:
            better = _gate(name, challenger, champion)
        move = new_move(
            "promote",
            version=str(challenger.version),
            previous=str(champion.version) if champion else None,
            reason=reason or better,
            forced=force,
        )
        _carry_out(client, name, move)
    return move


def rollback(name: str, *, tracking_uri: str, reason: str | None = None) -> Move:
    """Undo the promotion that made the present champion, and give the alias back to the one before.

    Raises:
        TrackingError: there is no champion; the ledger does not know how it became one; the one before is gone.
    """
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)
        model = _model(client, name)
        champion = _by_alias(client, name, CHAMPION)
        if champion is None:
            raise TrackingError(f"'{name}' has no champion to roll back.")
        undone = to_undo(from_tags(model.tags), str(champion.version))
        if undone is None:
            raise TrackingError(
                f"Version {champion.version} of '{name}' became champion without `gantry promote`, so there is nothing to "
                'undo. Name the version you want: gantry promote --version V --force --reason "why".'
            )
        if undone.previous is not None:
            _version(client, name, undone.previous)
        move = new_move(
            "rollback",
            version=undone.previous,
            previous=str(champion.version),
            reason=reason or f"undoes the promotion of {undone.at}",
            undoes=undone.id,
        )
        _carry_out(client, name, move)
    return move


def history(name: str, *, tracking_uri: str) -> list[Move]:
    """Every move of the champion of ``name``, oldest first; raises TrackingError when there is no such model."""
    with reaching(tracking_uri):
        return from_tags(_model(connect(tracking_uri, make=False), name).tags)


def _gate(name: str, challenger: "ModelVersion", champion: "ModelVersion") -> str:
    """Why the challenger may become champion; raises TrackingError when it may not."""
    new, old = _measured(name, challenger), _measured(name, champion)
    gap = new[2].differences(old[2])
    if new[0] != old[0]:
        gap.insert(0, f"figure: {new[0]} against {old[0]}")
    if gap:
        raise TrackingError(
            f"Version {challenger.version} of '{name}' cannot be compared with the champion, version {champion.version}: "
            f"they were measured by different protocols ({'; '.join(gap)}). Measure both alike, or: gantry promote "
            f'--version {challenger.version} --force --reason "why".'
        )
    if not new[1] < old[1]:
        raise TrackingError(
            f"Version {challenger.version} of '{name}' is not better than the champion, version {champion.version}: "
            f"{new[0]} {new[1]:.4f} against {old[1]:.4f} (lower is better). To promote it all the same: gantry promote "
            f'--version {challenger.version} --force --reason "why".'
        )
    return f"{new[0]} {new[1]:.4f} against {old[1]:.4f} by the same protocol"


def _measured(name: str, version: "ModelVersion") -> tuple[str, float, Protocol]:
    """Name, value and protocol of a version's figure."""
    missing = [tag for tag in (FIGURE, VALUE, PROTOCOL) if tag not in version.tags]
    if missing:
        raise TrackingError(
            f"Version {version.version} of '{name}' carries no measured figure (tags {', '.join(missing)} are missing): it "
            "was not registered by Gantry. Register it with the register stage, or use --force with a reason."
        )
    try:
        protocol = build(Protocol, json.loads(version.tags[PROTOCOL]))
    except SettingsError as error:
        raise TrackingError(
            f"Version {version.version} of '{name}' was measured by another edition of Gantry, whose protocol this one cannot "
            f"read ({error}). Register it anew, or use --force with a reason."
        ) from error
    return version.tags[FIGURE], float(version.tags[VALUE]), protocol


def _carry_out(client: "MlflowClient", name: str, move: Move) -> None:
    """Write a move to the ledger, then make it: a move cut short is in the ledger, one that was made cannot be missing."""
    client.set_registered_model_tag(name, *as_tag(move))
    if move.version is None:
        client.delete_registered_model_alias(name, CHAMPION)
    else:
        client.set_registered_model_alias(name, CHAMPION, move.version)


def _model(client: "MlflowClient", name: str) -> "RegisteredModel":
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise TrackingError(
            f"There is no registered model '{name}'. Run the pipeline first, or check register.name in params.yaml."
        ) from None


def _by_alias(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    # Aliases are read from the model: asking for one that is not set is an error like any other.
    version = _model(client, name).aliases.get(alias)
    return client.get_model_version(name, version) if version else None


def _version(client: "MlflowClient", name: str, version: str | None) -> "ModelVersion":
    if version is None:
        found = _by_alias(client, name, CHALLENGER)
        if found is None:
            raise TrackingError(
                f"'{name}' has no challenger. Run the pipeline, or name a version: gantry promote --version V."
            )
        return found
    _model(client, name)
    try:
        return client.get_model_version(name, version)
    except Exception as error:
        if not is_refusal(error):
            raise
        known = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
        raise TrackingError(
            f"'{name}' has no version {version}; it has {', '.join(map(str, known)) or 'none'}."
        ) from None
