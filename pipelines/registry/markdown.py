"""Text that others chose (names of classes, files, data sets) as Markdown shows it: as text, whatever it holds.

Model cards, the notes in MLflow and the artifacts in Prefect are Markdown, which may hold HTML, and a page that shows it
loads the pictures that it names.
"""

import re

LONGEST = 200
"""Characters of one name; what is longer is cut."""
_ANYWHERE = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_AT_START = re.compile(r"^([#+\-=>:]|\d+(?=[.)]))")


def escape(text: object) -> str:
    """``text`` in one line of Markdown, in a table or outside, with nothing in it that Markdown or HTML would obey."""
    line = _one_line(text)
    line = _ANYWHERE.sub(lambda found: "\\" + found[0], line)
    line = _ENTITY.sub("&amp;", line).replace("<", "&lt;")
    start = _AT_START.match(line)
    if start is None:
        return line
    # A number before a full stop would begin a list: it is the full stop that is escaped.
    return f"{start[0]}\\{line[start.end() :]}" if start[0].isdecimal() else f"\\{line}"


def code(text: object, *, in_table: bool = False) -> str:
    """``text`` as a span of code; empty where it is empty."""
    line = _one_line(text)
    if in_table:
        line = line.replace("|", "\\|")
    if not line:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def link_target(url: object) -> str | None:
    """``url`` where it is one of HTTP that ends where a link in Markdown ends; None otherwise."""
    return url if isinstance(url, str) and re.fullmatch(r"https?://[^\s()<>\[\]\"'`\\]+", url) else None


def _one_line(text: object) -> str:
    shown = "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in str(text))
    line = " ".join(shown.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
