"""Remove secrets from everything that leaves the process: terminal output, logs, Prefect, MLflow.

A secret is the value of an environment variable with a name such as MLFLOW_TRACKING_PASSWORD or AWS_SECRET_ACCESS_KEY, a
password in an address in any environment variable, or a value passed to :func:`register_secret`. :func:`redact_credentials`
removes them from a text, together with every password in an address and every token in a query. :func:`redact_output` does
this for all that the process prints and logs. Code that sends text elsewhere (events, states, artifacts) calls
:func:`redact_credentials` itself.
"""

import base64
import functools
import io
import logging
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Mapping

from pipelines.settings.secrets import _QUERY, _USER

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|STORAGE_?KEY|PRIVATE_?KEY|AUTH_STRING"
    r"|CREDENTIAL|CONNECTION_STRING|(?:^|_)SAS(?:_|$)|_(?:PASS|PWD)$",
    re.IGNORECASE,
)
# Variables with such a name whose value is a switch, a name, a path or an address, not a secret.
_NO_SECRET_NAME = re.compile(
    r"_(PATH|FILE|FILES|DIR|URL|URI|HOST|PORT|MODE|TTL|SECONDS|TIMEOUT|ENABLED?|USERNAME|KEY_ID)$", re.IGNORECASE
)
_WORDS = {"true", "false", "none", "null", "yes", "no", "on", "off", "token", "disabled", "enabled", "default"}
_SHORTEST = 4
"""Characters. A shorter secret is removed only from addresses, because it would occur by chance in any text."""
_WHOLE_WORD = 12
"""Characters. A shorter secret is removed only where it is a whole word: ``test`` must not redact ``latest``."""

_NOT_SECRET_USER = re.compile(r"(?:ssh|git\+ssh|git)://$", re.IGNORECASE)
_HEADER = re.compile(r"\b((?:Bearer|Basic)\s+)[A-Za-z0-9+/=._~-]{8,}")

_kept: set[str] = set()


def redact_credentials(text: str, environment: Mapping[str, str] | None = None) -> str:
    """``text`` without secrets: known secrets become ``***``, and addresses lose their user and password.

    Args:
        text: any text, of one line or many.
        environment: the environment variables that hold secrets. Default: those of this process.
    """
    known = _pattern(frozenset(_kept | _secrets(os.environ if environment is None else environment)))
    if known is not None:
        text = known.sub(HIDDEN, text)
    if "://" in text:
        text = _USER.sub(lambda found: _without_user(text, found), text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    if "Bearer" in text or "Basic" in text:
        text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return text


def register_secret(value: str) -> None:
    """Redact ``value`` from now on. For secrets that are not in the environment, such as a generated token."""
    if len(value) >= _SHORTEST:
        _kept.add(value)


def redact_output() -> None:
    """Remove secrets from all that this process prints and logs from now on. Call it at the start of a program."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _RedactedStream):
            stream.flush()
            setattr(sys, name, _RedactedStream(stream))
    redact_logs()


def redact_logs() -> None:
    """Remove secrets from every log record of this process. For code that does not own the standard streams."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RedactedRecords):
        logging.setLogRecordFactory(_RedactedRecords(factory))


class _RedactedStream(io.TextIOWrapper):
    """A standard stream that removes secrets from each piece of text written to it."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._stream = stream  # keep a reference: the old stream would close the file when it is collected

    def write(self, text: str) -> int:
        super().write(redact_credentials(text))
        return len(text)


class _RedactedRecords:
    """A log record factory that removes secrets, so that no handler in the process gets them."""

    def __init__(self, factory: Callable[..., logging.LogRecord]) -> None:
        self._factory = factory

    def __call__(self, *args: object, **fields: object) -> logging.LogRecord:
        record = self._factory(*args, **fields)
        try:
            message = record.getMessage()
        except Exception:  # the message does not fit its arguments, which logging itself reports
            return record
        if (clean := redact_credentials(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            if (clean := redact_credentials(trace)) != trace:
                record.exc_text = clean  # formatters use it instead of the exception
        return record


def _without_user(text: str, found: re.Match[str]) -> str:
    named = ":" in found.group()
    return found.group() if not named and _NOT_SECRET_USER.search(text[: found.start()]) else ""


def _secrets(environment: Mapping[str, str]) -> set[str]:
    """Every secret in an environment, in each form in which a text may contain it."""
    found: set[str] = set()
    for name, value in environment.items():
        if "@" in value and "://" in value:
            found |= _passwords(value)
        if _names_secret(name) and not _is_plain(value):
            found |= _forms(value)
            if name.endswith("AUTH_STRING") and ":" in value:  # user:password
                found |= {value.partition(":")[2], base64.b64encode(value.encode()).decode()}
    user, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        found.add(base64.b64encode(f"{user}:{password}".encode()).decode())
    return {secret for secret in found if len(secret) >= _SHORTEST}


@functools.lru_cache(maxsize=1024)
def _names_secret(variable: str) -> bool:
    return bool(_SECRET_NAME.search(variable)) and not _NO_SECRET_NAME.search(variable)


def _is_plain(value: str) -> bool:
    """Whether a value is not a secret: a switch, a short number, or the path of an existing file."""
    short_number = value.isdigit() and len(value) < 6
    return value.lower() in _WORDS or short_number or (os.path.isabs(value) and os.path.exists(value))


@functools.lru_cache(maxsize=256)
def _passwords(value: str) -> frozenset[str]:
    """The passwords of the addresses in a value."""
    found: set[str] = set()
    for match in _USER.finditer(value):
        user, colon, password = match.group()[:-1].partition(":")
        if colon:
            found |= _forms(password)
            plain = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password)}"
            found.add(base64.b64encode(plain.encode()).decode())
    return frozenset(found)


def _forms(secret: str) -> frozenset[str]:
    """A secret as it is, percent-encoded, and percent-decoded; of one with several lines, as a private key, each long line.

    The output of a stage is redacted line by line.
    """
    lines = {line.strip() for line in secret.splitlines()} if "\n" in secret else set()
    long = {line for line in lines if len(line) >= _WHOLE_WORD and not line.startswith("-----")}
    return frozenset({secret, urllib.parse.unquote(secret), urllib.parse.quote(secret, safe=""), *long})


@functools.lru_cache(maxsize=32)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """A pattern that matches any of ``secrets``, longest first; None if there are no secrets."""
    if not secrets:
        return None
    parts = [
        re.escape(secret) if len(secret) >= _WHOLE_WORD else rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])"
        for secret in sorted(secrets, key=lambda secret: (-len(secret), secret))
    ]
    return re.compile("|".join(parts))
