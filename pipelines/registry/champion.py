"""Move the alias ``champion`` on a server; safe against kills and concurrent moves.

MLflow has no transaction over a tag and an alias. A process that moves the champion first writes the next entry of the
chain and reads the ledger again. It moves the alias only if no other process has written an entry with the same number, so
at most one of two concurrent moves succeeds. An entry left by a killed process counts as in progress for a few seconds and
as void after that.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from gan_core.disk import find_disk_error
from gan_core.errors import TrackingError
from pipelines.registry.ledger import Ledger, Move, entry_label, escape_nonprintable, read_ledger, to_tag, written_at_ms
from pipelines.tracking.store import error_summary, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION = "champion"
PENDING_TIMEOUT = 5.0
"""Seconds to wait for a move in progress in another process; each of its two calls takes the server milliseconds."""
_MAX_PENDING_AGE_MS = 60_000
"""A pending entry older than this counts as void at once."""
_ATTEMPTS = 20
_LOG = logging.getLogger(__name__)


def get_registered_model(client: "MlflowClient", name: str) -> "RegisteredModel":
    """The registered model ``name``; raises TrackingError if it does not exist."""
    try:
        return client.get_registered_model(name)
    except Exception as error:
        if not is_refusal(error):
            raise
        raise TrackingError(
            f"There is no registered model '{name}'. Run the pipeline first (gantry run), or check register.name in "
            "params.yaml."
        ) from None


def current_ledger(client: "MlflowClient", name: str) -> Ledger:
    """The current ledger of ``name``, read from the server."""
    model = get_registered_model(client, name)
    champion = model.aliases.get(CHAMPION)
    return read_ledger(model.tags, str(champion) if champion else None)


def explain_last(client: "MlflowClient", name: str, ledger: Ledger) -> Ledger:
    """``ledger`` with the version of its last entry in :attr:`Ledger.deleted`, if that is why the alias does not name it."""
    last = ledger.chain[-1].move if ledger.chain else None
    if last is None or last.version is None or last.version == ledger.champion:
        return ledger
    if has_version(client, name, last.version):
        return ledger
    return replace(ledger, deleted=frozenset({last.version}))


def has_version(client: "MlflowClient", name: str, number: str) -> bool:
    """Whether the registry has this version; False if it was deleted."""
    try:
        client.get_model_version(name, number)
    except Exception as error:
        if not is_refusal(error):
            raise
        return False
    return True


def move_champion(client: "MlflowClient", name: str, decide: Callable[[Ledger], Move | None]) -> Move | None:
    """Move the champion as ``decide`` chooses.

    Args:
        client: client of the tracking server.
        name: registered model.
        decide: given the current ledger, returns the move to make, or None to leave the champion. Called again with the
            new ledger if another process moves the champion at the same time.

    Returns:
        The move, or None if ``decide`` chose none.

    Raises:
        TrackingError: other processes kept moving the champion, or one treated this move as interrupted; or the server did not
            answer whether it moved the champion.
    """
    for attempt in range(_ATTEMPTS):
        ledger = _wait_for_pending(client, name)
        move = decide(ledger)
        if move is None:
            return None
        tag, value = to_tag(move)
        client.set_registered_model_tag(name, tag, value)
        if not current_ledger(client, name).competing_moves(move):
            with _told_if_uncertain(name, move):
                _set_alias(client, name, move.version)
                _confirm(client, name, move)
            return move
        _LOG.info("Another process is moving the champion of '%s'; retrying.", name)
        _withdraw(client, name, move)
        time.sleep(random.uniform(0.05, 0.3) * (attempt + 1))
    raise TrackingError(
        f"Could not move the champion of '{name}': other processes moved it during each of {_ATTEMPTS} attempts. See gantry "
        "ledger, and try again."
    )


@contextmanager
def _told_if_uncertain(name: str, move: Move) -> Iterator[None]:
    """Turn an error of the server into one that says that the champion may have moved.

    After a lost answer, a repeated rollback would undo another promotion, too.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        if is_refusal(error) or find_disk_error(error) is not None:
            raise
        raise TrackingError(
            f"The tracking server failed while the champion of '{name}' was moved from {move.previous or 'none'} to "
            f"{move.version or 'none'} ({error_summary(error)}), so it may have moved or not. See gantry ledger before you "
            f"repeat gantry {move.kind}."
        ) from error


def _wait_for_pending(client: "MlflowClient", name: str) -> Ledger:
    """The ledger, once no other process has a move in progress or the move in progress counts as void."""
    deadline, logged = time.monotonic() + PENDING_TIMEOUT, False
    while True:
        ledger = current_ledger(client, name)
        if ledger.pending and not logged:  # asked once, not ten times a second
            ledger = explain_last(client, name, ledger)
        begun = ledger.pending
        if begun is None:
            return ledger
        what = (
            f"{entry_label(begun)}: {begun.kind} {begun.previous or 'none'} -> {begun.version or 'none'}, by {begun.by}"
        )
        if time.monotonic() >= deadline or time.time() * 1000 - written_at_ms(begun.id) > _MAX_PENDING_AGE_MS:
            _LOG.warning("%s was interrupted, or undone outside gantry; it is void now.", escape_nonprintable(what))
            return ledger
        if not logged:
            _LOG.warning("Waiting up to %g s for a move in progress: %s.", PENDING_TIMEOUT, escape_nonprintable(what))
            logged = True
        time.sleep(0.1)


def _withdraw(client: "MlflowClient", name: str, move: Move) -> None:
    """Delete the entry of a move that was not carried out, unless another entry already follows it."""
    tag, value = to_tag(move)
    client.delete_registered_model_tag(name, tag)
    digest = next(entry.digest for entry in read_ledger({tag: value}, None).entries)
    if any(entry.move.after == digest for entry in current_ledger(client, name).entries):
        client.set_registered_model_tag(name, tag, value)


def _confirm(client: "MlflowClient", name: str, move: Move) -> None:
    """Undo ``move`` if another process declared it void before the alias moved.

    Raises:
        TrackingError: the move was void; the champion is the one that the ledger names.
    """
    ledger = current_ledger(client, name)
    voided_by = next((entry.move for entry in ledger.entries if move.id in entry.move.voids), None)
    if voided_by is None:
        return
    champion = ledger.chain[-1].move.version
    if ledger.champion == move.version != champion:
        _set_alias(client, name, champion)
    raise TrackingError(
        f"Moving the champion of '{name}' took so long that another process, run by {voided_by.by}, treated it as interrupted "
        f"({entry_label(voided_by)}). The champion is {f'version {champion}' if champion else 'no version'}. See gantry "
        "ledger, and try again."
    )


def _set_alias(client: "MlflowClient", name: str, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias(name, CHAMPION)
    else:
        client.set_registered_model_alias(name, CHAMPION, version)
