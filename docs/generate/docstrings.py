"""Docstrings for the site: roles of reStructuredText, which the code uses, become plain code."""

from typing import Any

import griffe

from docs.generate.tables import plain_markdown


class PlainMarkdown(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for everything that has a name."""
        if obj.docstring:
            obj.docstring.value = plain_markdown(obj.docstring.value)
