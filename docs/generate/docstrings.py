"""Convert reStructuredText roles in docstrings to plain code for the site."""

from typing import Any

import griffe

from docs.generate.tables import plain_markdown


class PlainMarkdown(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = plain_markdown(obj.docstring.value)
