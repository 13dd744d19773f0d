"""Promotion: moving the alias ``champion``, only to what was measured to be better by the same protocol, and back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gan_core.config import build
from gan_core.errors import SettingsError, TrackingError
from gan_core.metrics.protocol import Figure, Protocol
from pipelines.registry.ledger import Move, as_tag, from_tags, new_move, to_undo
from pipelines.registry.register import CHALLENGER, FIGURE, HIGH, LOW, PROTOCOL, VALUE
from pipelines.tracking.store import connect, is_refusal, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION = "champion"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figure that a version's tags keep."""

    name: str
    value: float
    interval: tuple[float, float] | None
    """Both ends of its 95 % interval; None where the version has none."""
    protocol: Protocol


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

    The gate asks for a lower figure by the same protocol. Whether it is lower by more than noise is told and kept in the
    ledger, and stops nobody: intervals of few pictures are wide, and what they hide may be an improvement all the same.

    Args:
        name: registered model.
        tracking_uri: MLflow server or database.
        version: which version; the one with the alias ``challenger`` by default.
        force: pass over the gates; needs a reason.
        reason: why, for the ledger.
        measure: gives the figure of a version number as it is measured here and now. Where the champion's own does not
            compare (the data has grown since, say), this one stands for it.

    Returns:
        The move as the ledger has it, or None when the version is champion already.

    Raises:
        TrackingError: a gate is shut (another protocol, or a figure that is not lower): names each difference; no such
            version; forced without a reason; the server cannot be reached.
        GantryError: what ``measure`` raises.
    """
    if force and not (reason or "").strip():
        raise TrackingError('A forced promotion needs a reason for the ledger: --force --reason "why".')
    anew: dict[str, Figure] = {}
    while True:
        try:
            return _promote(name, tracking_uri, version, force, reason, anew)
        except IncomparableError as error:
            if measure is None or error.champion in anew:
                raise
            # It takes minutes, and meanwhile another version may become champion: all is looked at again.
            anew[error.champion] = measure(error.champion)


class IncomparableError(TrackingError):
    """The figures of challenger and champion do not compare."""

    def __init__(self, message: str, champion: str) -> None:
        super().__init__(message)
        self.champion = champion
        """The champion's version number."""


def _promote(
    name: str, tracking_uri: str, version: str | None, force: bool, reason: str | None, anew: Mapping[str, Figure]
) -> Move | None:
    """One attempt; ``anew`` has the figures of versions that were measured here, see :func:`promote`."""
    with reaching(tracking_uri):
        client = connect(tracking_uri, make=False)
        challenger = _version(client, name, version)
        champion = _by_alias(client, name, CHAMPION)
        if champion is not None and champion.version == challenger.version:
            return None
        found, within_noise = "", None
        if champion is not None and not force:
            found, within_noise = _gate(name, challenger, champion, anew.get(str(champion.version)))
        move = new_move(
            "promote",
            version=str(challenger.version),
            previous=str(champion.version) if champion else None,
            reason=reason or found or "the first champion",
            forced=force,
            found=found,
            within_noise=within_noise,
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


def _gate(
    name: str, challenger: "ModelVersion", champion: "ModelVersion", anew: Figure | None
) -> tuple[str, bool | None]:
    """Why the challenger may become champion, and whether both are within the noise, None where that is not known.

    Raises TrackingError when it may not. ``anew`` is what the champion was measured to be here.
    """
    new, how = _measured(name, challenger), ""
    promote = f"gantry promote {name} --version {challenger.version}"
    remedy = f"Measure the champion as the challenger was, on the data of this checkout: {promote} --measure"
    if anew is None:
        try:
            old = _measured(name, champion)
        except TrackingError as error:
            raise IncomparableError(f"{error} {remedy}.", str(champion.version)) from error
    else:
        interval = None if anew.low is None or anew.high is None else (anew.low, anew.high)
        old = Measured(name=anew.name, value=anew.value, interval=interval, protocol=anew.protocol)
        how = ", the champion measured anew"
        remedy = (
            "What is measured here (data/prepared, evaluate in params.yaml) is not what the challenger was measured by"
        )
    gap = [f"figure: {new.name} against {old.name}"] if new.name != old.name else []
    gap += new.protocol.differences(old.protocol)
    if gap:
        raise IncomparableError(
            f"Version {challenger.version} of '{name}' cannot be compared with the champion, version {champion.version}: "
            f"they were measured by different protocols ({'; '.join(gap)}). {remedy}. Or: {promote} --force "
            '--reason "why".',
            str(champion.version),
        )
    if not new.value < old.value:
        raise TrackingError(
            f"Version {challenger.version} of '{name}' is not better than the champion, version {champion.version}: "
            f"{new.name} {new.value:.4f} against {old.value:.4f} (lower is better). To promote it all the same: {promote} "
            '--force --reason "why".'
        )
    found = f"{new.name} {new.value:.4f} against {old.value:.4f} by the same protocol{how}"
    if new.interval is None or old.interval is None:
        return found, None
    if new.interval[1] < old.interval[0]:
        return f"{found}, lower by more than noise", False
    ends = " and ".join(f"{low:.4f} to {high:.4f}" for low, high in (new.interval, old.interval))
    return f"{found}; lower, but within the noise: the 95 % intervals {ends} overlap", True


def _measured(name: str, version: "ModelVersion") -> Measured:
    """A version's figure."""
    tags = version.tags
    missing = [tag for tag in (FIGURE, VALUE, PROTOCOL) if tag not in tags]
    if missing:
        raise TrackingError(
            f"Version {version.version} of '{name}' carries no measured figure (tags {', '.join(missing)} are missing): it "
            "was not registered by Gantry. Register it with the register stage, or use --force with a reason."
        )
    try:
        protocol = build(Protocol, json.loads(tags[PROTOCOL]))
    except SettingsError as error:
        raise TrackingError(
            f"Version {version.version} of '{name}' was measured by another edition of Gantry, whose protocol this one cannot "
            f"read ({error}). Register it anew, or use --force with a reason."
        ) from error
    interval = (float(tags[LOW]), float(tags[HIGH])) if LOW in tags and HIGH in tags else None
    return Measured(name=tags[FIGURE], value=float(tags[VALUE]), interval=interval, protocol=protocol)


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
