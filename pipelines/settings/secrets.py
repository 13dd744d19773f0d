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
    """Whether a URI holds a password or a token, before its host or in its query.

    A user without a password is one too in an address of a web server, where tokens are given that way.
    """
    user = _USER.search(uri)
    secret = user and (":" in user.group() or uri[: user.start()].lower().endswith(("http://", "https://")))
    return bool(secret) or bool(_QUERY.search(uri))
