"""Escape untrusted text (names of classes, files, datasets) for Markdown.

Model cards, descriptions in MLflow and artifacts in Prefect are Markdown, which may contain HTML and load pictures.
"""

import re

MAX_NAME_LENGTH = 200
"""In characters; longer names are truncated."""
MAX_PROSE_LENGTH = 10_000
"""The same for what people or Gantry itself wrote."""
_ANYWHERE = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_AT_START = re.compile(r"^([#+\-=>:]|\d+(?=[.)]))")


def escape_markdown(text: object, *, most: int = MAX_NAME_LENGTH) -> str:
    """``text`` as one line of Markdown without any markup, safe inside and outside a table, cut after ``most`` characters."""
    line = _one_line(text, most)
    line = _ANYWHERE.sub(lambda found: "\\" + found[0], line)
    line = _ENTITY.sub("&amp;", line).replace("<", "&lt;")
    start = _AT_START.match(line)
    if start is None:
        return line
    # A number and a full stop would start a list: escape the full stop.
    return f"{start[0]}\\{line[start.end() :]}" if start[0].isdecimal() else f"\\{line}"


def code_span(text: object, *, in_table: bool = False) -> str:
    """``text`` as a code span; empty if ``text`` is empty."""
    line = _one_line(text, MAX_NAME_LENGTH)
    if in_table:
        line = line.replace("|", "\\|")
    if not line:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def link_target(url: object) -> str | None:
    """``url`` if it is an HTTP address that cannot break out of a Markdown link; None otherwise."""
    return url if isinstance(url, str) and re.fullmatch(r"https?://[^\s()<>\[\]\"'`\\]+", url) else None


def _one_line(text: object, most: int) -> str:
    shown = "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in str(text))
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[:most]}..."
