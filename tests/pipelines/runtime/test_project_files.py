"""Damaged project files are rejected before a run; the error names the file, the line and the remedy."""

import logging
import shutil
from pathlib import Path

import pytest
import yaml

from gan_core.errors import GantryError, SettingsError, StageError
from pipelines.data.raw import add, fetch_public
from pipelines.flow.workspace import check_stages
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.project_files import check_project_files, missing_stages
from pipelines.settings.schema import load_settings
from tests.checkout import ROOT
from tests.pipelines.toy import make_project

LOCK = """schema: '2.0'
stages:
  ingest:
    cmd: gantry stage ingest
    deps:
    - path: data/raw/fashion-mnist
      hash: md5
      md5: 37afb0c9918e39be683309906110539c.dir
"""
SOURCE = "data/raw/fashion-mnist.dvc"
WHOLE = """outs:
- md5: 37afb0c9918e39be683309906110539c.dir
  size: 54950324
  nfiles: 5
  hash: md5
  path: fashion-mnist
"""
CONFLICT = "<<<<<<< HEAD\n{0}\n=======\n{0}\n>>>>>>> other\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this checkout's project files."""
    root = tmp_path / "checkout"
    (root / "data/raw").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    (root / SOURCE).write_text(WHOLE)
    (root / "dvc.lock").write_text(LOCK)
    return root


def test_undamaged_files_pass(checkout):
    check_project_files(Checkout.at(checkout))
    assert not missing_stages(Checkout.at(checkout))


def test_a_folder_without_project_files_passes(tmp_path):
    check_project_files(Checkout.at(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (SOURCE, "", r"fashion-mnist.dvc is empty"),
        (SOURCE, "[]\n", r"fashion-mnist.dvc, line 1: .* is a list"),
        (SOURCE, WHOLE[:50], r"fashion-mnist.dvc, line 2: the file is truncated: it names no path"),
        (SOURCE, WHOLE[:-7], r"fashion-mnist.dvc, line 6: the file is truncated: .*'fashion'.*'fashion-mnist'"),
        (SOURCE, "outs:\n", r"fashion-mnist.dvc, line 1: it names no data"),
        (SOURCE, "out", r"fashion-mnist.dvc, line 1: .* is one value"),
        (SOURCE, CONFLICT.format(WHOLE), r"fashion-mnist.dvc: line 1: unresolved git merge conflict"),
        (SOURCE, "\x00\x01", r"fashion-mnist.dvc.*not valid YAML"),
        ("dvc.lock", "", r"dvc.lock is empty"),
        ("dvc.lock", "[]\n", r"dvc.lock, line 1: .* is a list"),
        ("dvc.lock", "- a\n", r"dvc.lock, line 1: .* is a list"),
        ("dvc.lock", LOCK + CONFLICT.format("  a: 1"), r"dvc.lock: line 9: unresolved git merge conflict"),
        ("dvc.lock", LOCK[:22], r"dvc.lock.*stages"),
        ("dvc.lock", LOCK + "    deps: []\n", r"dvc.lock, line 9: .*not valid YAML, or truncated.*duplicate"),
        ("dvc.yaml", "[]\n", r"dvc.yaml, line 1: .* is a list"),
        ("dvc.yaml", "stages: {a: {deps: [b]}}\n", r"dvc.yaml, line 1: stages.a.*cmd"),
        ("dvc.yaml", "# stages\n" + CONFLICT.format("stages:"), r"dvc.yaml: line 2: unresolved git merge conflict"),
    ],
    ids=lambda value: str(value)[:24].replace("/", "-"),
)
def test_a_damaged_file_is_named_with_the_line_and_the_remedy(checkout, file, content, message):
    (checkout / file).write_text(content)
    with pytest.raises(StageError, match=message) as error:
        check_project_files(Checkout.at(checkout))
    assert f"git checkout {file}" in str(error.value)
    assert "\n" not in str(error.value)


def test_conflicts_in_the_settings_are_named(checkout):
    path = checkout / "params.yaml"
    path.write_text("data:\n" + CONFLICT.format("  name: a"))
    for read in (check_project_files, lambda place: load_settings(place.params)):
        with pytest.raises(SettingsError, match=r"params.yaml: line 2: unresolved git merge conflict.*<<<<<<< HEAD"):
            read(Checkout.at(checkout))


def test_a_dvc_yaml_truncated_within_a_stage_is_rejected(checkout):
    """Also if the rest is a valid dvc.yaml, as it is at the end of most lines."""
    whole = (ROOT / "dvc.yaml").read_text()
    stages = whole[: whole.index("\nplots:")]
    unnoticed = []
    for end in range(0, len(stages), 7):
        (checkout / "dvc.yaml").write_text(stages[:end])
        try:
            check_project_files(Checkout.at(checkout))
        except GantryError:
            continue
        if not missing_stages(Checkout.at(checkout)) and yaml.safe_load(stages[:end]) != yaml.safe_load(stages):
            unnoticed.append(stages[max(0, end - 60) : end])
    assert not unnoticed


def test_missing_stages_are_reported(tmp_path, caplog):
    whole = (ROOT / "dvc.yaml").read_text()
    files = {"dvc.yaml": whole[: whole.index("\n  evaluate:")], "params.yaml": (ROOT / "params.yaml").read_text()}
    root = make_project(tmp_path / "project", files)
    with caplog.at_level(logging.WARNING, "pipelines"):
        check_stages(Checkout.at(root))
    assert "has no stage evaluate, register" in caplog.text


def test_an_out_that_the_code_does_not_make_is_rejected(checkout):
    path = checkout / "dvc.yaml"
    path.write_text(path.read_text().replace("- outputs/train/fid.csv\n", "- outputs/train/fids.csv\n"))
    with pytest.raises(
        StageError, match=r"dvc.yaml, line \d+: stage 'train' does not list the out outputs/train/fid.csv"
    ):
        check_project_files(Checkout.at(checkout))


def test_the_dvc_yaml_of_an_older_project_may_lack_what_a_later_run_needs(checkout):
    path = checkout / "dvc.yaml"
    text = path.read_text().replace("      - outputs/train/start\n", "")
    path.write_text(text.replace("      - outputs/train/start/start.json\n", ""))
    check_project_files(Checkout.at(checkout))


def test_a_setting_that_an_older_params_yaml_lacks_is_named(checkout):
    path = checkout / "params.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "objective:" not in line))
    with pytest.raises(
        StageError,
        match=r"dvc.yaml, line \d+: stage '\w+' depends on the setting evaluate.objective, which .*params.yaml lacks",
    ):
        check_project_files(Checkout.at(checkout))


def test_a_stage_that_is_not_gantrys_may_have_any_outs(checkout):
    (checkout / "dvc.yaml").write_text("stages: {train: {cmd: python train.py, outs: [model.bin]}}\n")
    check_project_files(Checkout.at(checkout))
    assert not missing_stages(Checkout.at(checkout))


def test_data_is_not_added_to_a_damaged_project(checkout, tmp_path):
    (checkout / "dvc.lock").write_text("[]\n")
    for bring in (
        lambda: fetch_public("digits", checkout=Checkout.at(checkout)),
        lambda: add("mine", str(tmp_path / "absent"), checkout=Checkout.at(checkout)),
    ):
        with pytest.raises(StageError, match=r"dvc.lock, line 1"):
            bring()
    assert [path.name for path in (checkout / "data/raw").iterdir()] == ["fashion-mnist.dvc"]


def test_a_cache_whose_path_dvc_cannot_use_is_named_with_the_remedy(tmp_path):
    checkout = Checkout.at(tmp_path / "{project}")
    (checkout.root / ".dvc").mkdir(parents=True)
    (checkout.root / ".dvc" / "config").touch()
    with pytest.raises(StageError, match=r"/\{project\}/\.dvc/cache, has a brace.*dvc cache dir --local FOLDER"):
        check_project_files(checkout)
    (checkout.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path}/cache\n")
    check_project_files(checkout)
