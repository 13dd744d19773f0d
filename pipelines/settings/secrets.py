"""Detect passwords and tokens in URIs."""

import re

# The part before @ ends at the last @ before a slash, or, as database addresses allow a slash in a password, at the first.
_USER = re.compile(r"(?<=://)[^\s/\"'<>]*@|(?<=://)[^\s:/@\"'<>]*:(?!\d+(?:[/\s]|$))[^\s@\"'<>]*@")
_NAMED = (
    r"(?:[\w-]*(?:password|passwd|passphrase|secret|token|api_?key|access_?key|account_?key|signature|credential)"
    r"|pwd|sig|sas)"
)
_QUERY = re.compile(rf"((?:[?&;]|\b(?=password=|passwd=|pwd=)){_NAMED}=)[^&\s\"'<>;]+", re.IGNORECASE)


def has_secret(uri: str) -> bool:
    """Whether a URI holds a password or a token, before its host or in its query."""
    user = _USER.search(uri)
    return bool(user and ":" in user.group()) or bool(_QUERY.search(uri))
