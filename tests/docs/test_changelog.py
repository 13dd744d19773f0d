"""The changelog has only whole entries, and names files that exist."""

import re

import pytest

from tests.checkout import ROOT

_TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
_FILES = sorted(set(re.findall(r"`((?:gan_core|pipelines|docs|tests|infra)/[\w./-]+\.\w+)`", _TEXT)))


def test_each_topic_appears_once_and_begins_with_an_entry() -> None:
    topics = re.findall(r"^### (.+)\n\n(.*)$", _TEXT, re.MULTILINE)
    assert len({name for name, _ in topics}) == len(topics) > 5
    assert [name for name, first in topics if not first.startswith("- ")] == []


@pytest.mark.parametrize("file", _FILES)
def test_a_file_that_is_named_exists(file: str) -> None:
    assert (ROOT / file).is_file()
