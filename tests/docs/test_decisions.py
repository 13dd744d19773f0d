"""The decisions are numbered once each, and the index lists every one."""

import re
from pathlib import Path

DECISIONS = Path(__file__).parents[2] / "docs" / "decisions"


def test_every_decision_has_a_number_of_its_own_and_a_line_in_the_index() -> None:
    files = sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    numbers = [int(name[:4]) for name in files]
    assert numbers == [*range(1, len(files) + 1)]
    listed = dict(re.findall(r"^- \[(\d+)\. .+\]\((\S+)\)$", (DECISIONS / "index.md").read_text(), re.M))
    assert {int(number): name for number, name in listed.items()} == dict(zip(numbers, files, strict=True))
    for number, name in zip(numbers, files, strict=True):
        assert (DECISIONS / name).read_text().startswith(f"# {number}. ")
