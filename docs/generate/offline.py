"""A hook of mkdocs: pages must not load anything from other hosts, so that the site works offline and visits stay private."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

_ELSEWHERE = r'"((?:https?:)?//[^"]+)"'
_LOADED = re.compile(
    rf"<(?:script|img|iframe|source)\b[^>]*\bsrc={_ELSEWHERE}|<link\b[^>]*\bhref={_ELSEWHERE}",
)


def on_post_page(output: str, *, page: Any, **kwargs: Any) -> str:
    """Raise an error if a page loads a script, a style, a font or a picture from another host."""
    for found in _LOADED.finditer(output):
        if 'rel="canonical"' not in found[0]:
            raise PluginError(f"{page.file.src_path} loads {found[1] or found[2]}. Keep a copy of it in docs/ instead.")
    return output
