"""The paths of a project match dvc.yaml."""

from pathlib import Path

import pytest
import yaml

from pipelines.runtime import checkout
from pipelines.runtime.checkout import OUTS, Checkout
from tests.pipelines.toy import CHECKOUT


def test_outs_of_the_code_match_dvc_yaml():
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]
    listed = {
        name: {
            out if isinstance(out, str) else next(iter(out))
            for out in (*stage.get("outs", ()), *stage.get("metrics", ()))
        }
        for name, stage in stages.items()
    }
    assert listed == {name: set(outs) for name, outs in OUTS.items()}


def test_dependencies_of_dvc_yaml_match_the_paths():
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]
    read = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith(("data/", "outputs/"))}
    assert read - {out for outs in OUTS.values() for out in outs} == {
        f"{checkout.RAW}/${{data.name}}",
        checkout.START_DESCRIPTION,
    }


def test_paths_are_below_the_root_or_var(tmp_path):
    """GANTRY_VAR moves var; results stay below the root."""
    given = Checkout.at(tmp_path / "root", {"GANTRY_VAR": str(tmp_path / "elsewhere")})
    names = [name for name, value in vars(Checkout).items() if isinstance(value, property)]
    places = {name: getattr(given, name) for name in names}
    assert len(set(places.values())) == len(names) > 15
    in_var = {name for name, place in places.items() if place.is_relative_to(tmp_path / "elsewhere")}
    assert in_var >= {"events", "ray", "prefect", "worktrees", "run_lock", "stage_logs"}
    assert all(places[name].is_relative_to(tmp_path / "root") for name in names if name not in in_var)
    assert given.work("train", "k1") == tmp_path / "elsewhere/work/train/k1"
    assert given.raw_pointer("digits").with_suffix("") == given.raw_data("digits") == tmp_path / "root/data/raw/digits"


def test_var_is_in_the_root_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    assert Checkout.at("below") == Checkout(root=tmp_path / "below", var=tmp_path / "below/var")
    monkeypatch.setenv("GANTRY_VAR", "other")
    assert Checkout.at("below").var == Path.cwd() / "other"


@pytest.mark.parametrize("name", ["PREPARED", "GENERATOR", "METRICS", "REGISTERED", "SAMPLES", "BEST"])
def test_each_out_has_a_path_of_the_same_name(tmp_path, name):
    assert getattr(Checkout.at(tmp_path), name.lower()) == tmp_path / getattr(checkout, name)
