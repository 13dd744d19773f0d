"""Detect passwords and tokens in URIs."""

import re

# User and password end at the last @ before a slash. If a slash comes first, they end at the first @, because passwords in
# database URIs may contain slashes.
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
