"""Generate pages from the code: settings, Python API, the tables on the families' pages, the navigation.

mkdocs-gen-files runs this at each build. The generated pages are not in the repository.
"""

import re
from pathlib import Path

import mkdocs_gen_files
from mkdocs.exceptions import PluginError

from docs.generate.tables import recipe_table, sections, table
from gan_core.families import FAMILIES
from gan_core.presets.recipes import RECIPES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PROJECT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Files in the repository's root that are also pages of the site, and the names of the pages."""
PACKAGES = ("training", "presets", "inference", "families", "metrics", "augment", "nn", "images", "download")
"""Packages of gan_core that get their own page. The modules directly in gan_core share one page."""


def write(place: str, text: str) -> None:
    """Write the page ``place``, a path relative to the site's sources."""
    with mkdocs_gen_files.open(place, "w") as page:
        page.write(text)


def settings() -> None:
    """Write the page of the settings of params.yaml."""
    parts = [
        "# Settings\n",
        "Every setting of `params.yaml` with its default, range and meaning. This page is generated from the settings in the "
        "code. `gantry settings` prints the same in a terminal, and `gantry settings train` prints one section.\n",
        "An unknown key is an error. The message names the nearest valid key.\n",
    ]
    for name, kind in sections().items():
        parts += [f"## {name}\n", table(kind, name)]
        if name == "model":
            pages = ", ".join(f"[{family}](../families/{family}.md#settings)" for family in FAMILIES)
            parts.append(f"The other settings of `model` depend on the family: {pages}.\n")
    write("reference/settings.md", "\n".join(parts))


def api() -> list[str]:
    """Write a page for each package of gan_core; returns lines for the navigation."""
    lines = []
    loose = sorted(path.stem for path in (ROOT / "gan_core").glob("*.py") if path.stem != "__init__")
    for package in ("gan_core", *PACKAGES):
        if package == "gan_core":
            title, modules = "gan_core", [f"gan_core.{name}" for name in loose]
        else:
            title = f"gan_core.{package}"
            names = sorted(path.stem for path in (ROOT / "gan_core" / package).glob("*.py") if path.stem != "__init__")
            modules = [f"{title}.{name}" for name in names]
        blocks = [f"## {module}\n\n::: {module}\n" for module in modules]
        write(f"reference/api/{package}.md", f"# {title}\n\n" + "\n".join(blocks))
        lines.append(f"    - [{title}](api/{package}.md)\n")
    return lines


def families() -> None:
    """Add the recipe and the settings of each family to the end of its page."""
    for name, family in FAMILIES.items():
        page = DOCS / "families" / f"{name}.md"
        if not page.is_file():
            raise PluginError(f"The family {name} has no page. Write docs/families/{name}.md.")
        parts = [
            page.read_text(encoding="utf-8"),
            "## Recipe\n",
            recipe_table(RECIPES[name]),
            "## Settings\n",
            f"These belong in the section `model` of `params.yaml`. `gantry settings {name}` prints them.\n",
            table(family.Config, "model"),
        ]
        write(f"families/{name}.md", "\n".join(parts))


def project() -> None:
    """Write pages from files in the repository's root, with links to pages instead of files."""
    for file, page in PROJECT.items():
        if (ROOT / file).is_file():
            text = (ROOT / file).read_text(encoding="utf-8")
            for other, name in PROJECT.items():
                text = text.replace(f"]({other}", f"]({name}")
            write(page, text.replace("](docs/", "]("))


def decisions() -> list[str]:
    """Lines for the navigation: the index first, then each decision with its title."""
    lines = []
    for page in sorted((DOCS / "decisions").glob("*.md"), key=lambda path: (path.stem != "index", path.stem)):
        title = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        lines.append(f"- [{title[1] if title else page.stem}]({page.name})\n")
    return lines


families()
settings()
write(
    "reference/SUMMARY.md",
    "".join(
        [
            "- [Commands](commands.md)\n- [Settings](settings.md)\n- [Files and environment variables](files.md)\n",
            "- Python API\n",
            *api(),
        ]
    ),
)
write("decisions/SUMMARY.md", "".join(decisions()))
project()
