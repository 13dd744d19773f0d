"""The page of files and environment variables has what the code reads and writes."""

import re
from pathlib import Path

from pipelines.runtime.checkout import Checkout
from tests.checkout import ROOT

_PAGE = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
_CODE = "".join(
    path.read_text(encoding="utf-8") for package in ("gan_core", "pipelines") for path in (ROOT / package).rglob("*.py")
)
_BETWEEN_PROCESSES = {"GANTRY_PIPELINE_RUN", "GANTRY_CLUSTER", "GANTRY_CHECKOUT", "GANTRY_PAGE_AUTH", "GANTRY_COMPLETE"}
"""Variables that Gantry's processes set for each other."""


def test_every_variable_that_a_user_may_set_is_on_the_page() -> None:
    read = set(re.findall(r"\bGANTRY_[A-Z_]+\b", _CODE)) - _BETWEEN_PROCESSES
    assert {name for name in read if f"`{name}`" not in _PAGE} == set()
    assert set(re.findall(r"\bGANTRY_[A-Z_]+\b", _PAGE)) <= read


def test_every_folder_of_the_cache_is_on_the_page() -> None:
    folders = set(re.findall(r'user_cache_dir\(\) / "([a-z-]+)"', _CODE))
    assert len(folders) > 5
    assert {name for name in folders if f"`{name}`" not in _PAGE} == set()


def test_every_folder_of_var_is_on_the_page() -> None:
    checkout = Checkout.at(Path("/project"), {})
    paths = (
        value
        for name, kind in vars(Checkout).items()
        if isinstance(kind, property) and (value := getattr(checkout, name))
    )
    folders = {path.relative_to(checkout.var).parts[0] for path in paths if checkout.var in path.parents}
    assert len(folders) > 5
    assert {name for name in folders if "." not in name and f"`var/{name}`" not in _PAGE} == set()
