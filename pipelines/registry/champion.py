"""Moving the alias ``champion`` on a server: entry first, alias second, safe to kill and to run twice at once.

MLflow has no transaction over a tag and an alias. Whoever moves the champion writes the next entry of the chain, reads the
ledger again, and goes on only if nobody else wrote an entry of the same number: of two at once at most one does. What a
killed process left is in progress for some seconds, and void after that.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gan_core.errors import TrackingError
from pipelines.registry.ledger import Ledger, Move, as_tag, in_one_line, milliseconds, place, read_ledger
from pipelines.tracking.store import is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION = "champion"
PATIENCE = 5.0
"""Seconds to wait for a move that another process has begun; each of its two calls takes the server milliseconds."""
_YOUNG_MS = 60_000
"""Older entries than this are not waited for."""
_ATTEMPTS = 20
_LOG = logging.getLogger(__name__)


def registered_model(client: "MlflowClient", name: str) -> "RegisteredModel":
    """The registered model ``name``; raises TrackingError when there is none."""
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise TrackingError(
            f"There is no registered model '{name}'. Run the pipeline first, or check register.name in params.yaml."
        ) from None


def current_ledger(client: "MlflowClient", name: str) -> Ledger:
    """The ledger of ``name`` and who is champion, as they are now."""
    model = registered_model(client, name)
    champion = model.aliases.get(CHAMPION)
    return read_ledger(model.tags, str(champion) if champion else None)


def move_champion(client: "MlflowClient", name: str, decide: Callable[[Ledger], Move | None]) -> Move | None:
    """Write the move that ``decide`` makes of the ledger, and make it; None where it makes none.

    Called again with a new ledger where somebody else moved the champion in the meantime.

    Raises:
        TrackingError: others moved the champion again and again, or took this move for one of a killed process.
    """
    for attempt in range(_ATTEMPTS):
        ledger = _settled(client, name)
        move = decide(ledger)
        if move is None:
            return None
        tag, value = as_tag(move)
        client.set_registered_model_tag(name, tag, value)
        if not current_ledger(client, name).rivals(move):
            _set_alias(client, name, move.version)
            _confirm(client, name, move)
            return move
        _LOG.info("Somebody else moves the champion of '%s' at this moment; trying again.", name)
        _withdraw(client, name, move)
        time.sleep(random.uniform(0.05, 0.3) * (attempt + 1))
    raise TrackingError(
        f"The champion of '{name}' was moved by others {_ATTEMPTS} times while this tried to. See gantry ledger, and try again."
    )


def _settled(client: "MlflowClient", name: str) -> Ledger:
    """The ledger, after a move that another process is about was made or given up."""
    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        ledger = current_ledger(client, name)
        begun = ledger.pending
        if begun is None:
            return ledger
        what = f"{place(begun)}: {begun.kind} {begun.previous or 'none'} -> {begun.version or 'none'}, by {begun.by}"
        if time.monotonic() >= deadline or time.time() * 1000 - milliseconds(begun.id) > _YOUNG_MS:
            _LOG.warning("%s was cut short; it is void now.", in_one_line(what))
            return ledger
        if not told:
            _LOG.warning("Waiting up to %g s for a move in progress: %s.", PATIENCE, in_one_line(what))
            told = True
        time.sleep(0.1)


def _withdraw(client: "MlflowClient", name: str, move: Move) -> None:
    """Take back an entry that nobody has carried out, unless another entry relies on it already."""
    tag, value = as_tag(move)
    client.delete_registered_model_tag(name, tag)
    digest = next(entry.digest for entry in read_ledger({tag: value}, None).entries)
    if any(entry.move.after == digest for entry in current_ledger(client, name).entries):
        client.set_registered_model_tag(name, tag, value)


def _confirm(client: "MlflowClient", name: str, move: Move) -> None:
    """Look whether the move was taken for one of a killed process while it was made, and undo it then.

    Raises:
        TrackingError: it was; the champion is the one that the ledger names.
    """
    ledger = current_ledger(client, name)
    voided_by = next((entry.move for entry in ledger.entries if move.id in entry.move.voids), None)
    if voided_by is None:
        return
    champion = ledger.chain[-1].move.version
    if ledger.champion == move.version != champion:
        _set_alias(client, name, champion)
    raise TrackingError(
        f"Moving the champion of '{name}' took so long that {voided_by.by} took it for cut short ({place(voided_by)}). The "
        f"champion is {f'version {champion}' if champion else 'no version'}. See gantry ledger, and try again."
    )


def _set_alias(client: "MlflowClient", name: str, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias(name, CHAMPION)
    else:
        client.set_registered_model_alias(name, CHAMPION, version)
