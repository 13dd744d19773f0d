"""All links in README and the other pages of the root folder lead to existing files."""

import re

import pytest

from tests.checkout import ROOT

_LINK = re.compile(r'\]\(([^)#\s]+)[^)]*\)|src="([^"]+)"')


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_link_leads_to_an_existing_file(page: str) -> None:
    places = [place or source for place, source in _LINK.findall((ROOT / page).read_text(encoding="utf-8"))]
    assert places
    assert [place for place in places if "://" not in place and not (ROOT / place).exists()] == []


def test_the_readme_is_short_and_starts_with_what_gantry_does() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert "train a gan" in lines[2].lower().split(". ")[0]


def test_the_thumbnails_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "images" / "thumbs").iterdir()) < 300_000
