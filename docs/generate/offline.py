"""A hook of mkdocs: no page may load anything from another host, so that the site works offline and tells nobody of a visit."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

_ELSEWHERE = r'"((?:https?:)?//[^"]+)"'
_LOADED = re.compile(
    rf"<(?:script|img|iframe|source)\b[^>]*\bsrc={_ELSEWHERE}|<link\b[^>]*\bhref={_ELSEWHERE}",
)


def on_post_page(output: str, *, page: Any, **kwargs: Any) -> str:
    """Refuse a page that loads a script, a style, a font or a picture from elsewhere."""
    for found in _LOADED.finditer(output):
        if 'rel="canonical"' not in found[0]:
            raise PluginError(f"{page.file.src_path} loads {found[1] or found[2]}: keep a copy of it in docs/.")
    return output
