"""DVC registers again if the result or the server changed, and never restores an earlier registration."""

import shutil
from pathlib import Path

import pytest
import yaml

from gan_core.errors import StageError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.git import Commit
from pipelines.stages import evaluate, register
from pipelines.stages.context import open_stage, run_stage
from pipelines.stages.register import check_lock, commit_tags, length_tags
from pipelines.stages.results import CHECKED, check_recorded_settings
from tests.pipelines.settings_example import small_settings
from tests.pipelines.toy import CHECKOUT, dvc, make_project

STAND_IN = """
import pathlib, sys
with open("ran.txt", "a") as file:
    file.write(sys.argv[1] + "\\n")
out = pathlib.Path(sys.argv[2])
out.parent.mkdir(parents=True, exist_ok=True)
if out.suffix:
    out.write_text(pathlib.Path("params.yaml").read_text())
else:
    out.mkdir(exist_ok=True)
    (out / "it").write_text("the same whatever the settings")
"""


def _stand_ins() -> dict[str, str]:
    """Files of a project with this dvc.yaml's evaluate and register stages, whose commands only record that they ran."""
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]
    files = {"stand_in.py": STAND_IN, "params.yaml": (CHECKOUT / "params.yaml").read_text()}
    made = set()
    for name in ("evaluate", "register"):
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stages[name]["outs"]]
        outs += [next(iter(out)) for out in stages[name].get("metrics", [])]
        stages[name]["cmd"] = [f"python stand_in.py {name} {out}" for out in outs]
        made |= set(outs)
        for dep in set(stages[name]["deps"]) - made:
            files[f"{dep}/file"] = "as it was\n"
    files["dvc.yaml"] = yaml.safe_dump({"stages": {name: stages[name] for name in ("evaluate", "register")}})
    return files


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, after its first run."""
    root = make_project(tmp_path_factory.mktemp("register") / "project", _stand_ins())
    dvc("repro", "-q", cwd=root)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A copy for this test in which no stage has run."""
    root = Path(shutil.copytree(template, tmp_path / "project"))
    (root / "ran.txt").unlink()
    return root


def test_a_version_says_how_many_steps_its_minutes_were(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    curves.write_text("step,loss_generator\n20,0.5\n5400,0.4\n")
    assert length_tags(small_settings(), curves) == {}
    assert length_tags(small_settings(train__minutes=15), curves) == {
        "gantry.train_minutes": "15",
        "gantry.train_steps": "5400",
    }
    curves.unlink()
    with pytest.raises(StageError, match=r"curves\.csv is missing .*Restore it: dvc checkout .*curves\.csv"):
        length_tags(small_settings(train__minutes=15), curves)


def test_a_version_names_the_commit_of_its_training_if_that_is_another_one(capsys: pytest.CaptureFixture) -> None:
    here = Commit(name="b" * 40)
    assert commit_tags(here, {}) == commit_tags(here, here.tags) == here.tags
    changed = Commit(name=f"{here.name}+changes")
    assert commit_tags(changed, here.tags) == changed.tags, "the run itself changes dvc.lock"
    assert "trained" not in capsys.readouterr().out
    assert commit_tags(here, changed.tags) == {**here.tags, "gantry.train_commit": changed.name}
    earlier = Commit(name=f"{'a' * 40}+changes")
    assert commit_tags(here, earlier.tags) == {**here.tags, "gantry.train_commit": earlier.name}
    assert f"trained at commit {earlier.name} and is registered at {here.name}" in capsys.readouterr().out


def ran(project: Path) -> set[str]:
    """The stages that ran since the last call."""
    dvc("repro", "-q", cwd=project)
    note = project / "ran.txt"
    names = set(note.read_text().split()) if note.exists() else set()
    note.unlink(missing_ok=True)
    return names


def set_(project: Path, old: str, new: str) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_version_does_not_get_the_dvc_lock_of_other_results(project):
    """As after ``gantry stage evaluate`` by hand, of which DVC knows nothing."""
    with open_stage("register", Checkout.at(project)) as context:
        check_lock(context)
    (project / "outputs/evaluate/metrics.json").write_text("{}")
    with (
        open_stage("register", Checkout.at(project)) as context,
        pytest.raises(StageError, match=r"dvc\.lock records another content of outputs/evaluate/metrics\.json: "),
    ):
        check_lock(context)


def test_results_are_not_recorded_with_settings_that_were_changed_meanwhile(project):
    """As by an edit for the next run, while an earlier stage of this one still runs."""
    checkout = Checkout.at(project)
    set_(project, "samples: 600 ", "samples: 6e2 ")
    check_recorded_settings(checkout, CHECKED)  # equal for DVC
    set_(project, "samples: 6e2 ", "samples: 500 ")
    with pytest.raises(StageError, match=r"'evaluate' .*after it had run: evaluate\.samples in params\.yaml\. "):
        check_recorded_settings(checkout, CHECKED)
    check_recorded_settings(checkout, ["ingest", "train"])  # dvc.lock has none of them
    path = project / "dvc.yaml"
    stages = yaml.safe_load(path.read_text())
    stages["stages"]["evaluate"]["frozen"] = True
    path.write_text(yaml.safe_dump(stages))
    check_recorded_settings(checkout, CHECKED)


def test_evaluation_and_registration_stop_if_the_settings_of_an_earlier_stage_were_changed(project):
    checkout = Checkout.at(project)
    set_(project, "samples: 600 ", "samples: 500 ")
    with (
        open_stage("register", checkout) as context,
        pytest.raises(StageError, match="The settings of stage 'evaluate' were changed after it had run"),
    ):
        register.run(context, small_settings())
    path, lock = project / "dvc.yaml", project / "dvc.lock"
    stages, ran = yaml.safe_load(path.read_text()), yaml.safe_load(lock.read_text())
    stages["stages"]["ingest"] = {"cmd": "true", "params": ["ingest.size"]}
    ran["stages"]["ingest"] = {"cmd": "true", "params": {"params.yaml": {"ingest.size": [1024, 1024]}}}
    path.write_text(yaml.safe_dump(stages))
    lock.write_text(yaml.safe_dump(ran))
    with (
        open_stage("evaluate", checkout) as context,  # its own settings may change: it runs with them now
        pytest.raises(
            StageError, match=r"The settings of stage 'ingest' were changed .*: ingest\.size in params\.yaml"
        ),
    ):
        evaluate.run(context, small_settings())


def test_nothing_runs_without_a_change(project):
    assert ran(project) == set()


def test_a_missing_registration_is_made_again_and_not_restored(project):
    shutil.rmtree(project / "outputs" / "register")
    assert ran(project) == {"register"}
    shutil.rmtree(project / "outputs" / "register")
    dvc("checkout", "-q", "--allow-missing", cwd=project)
    assert ran(project) == {"register"}


def test_going_back_to_an_earlier_setting_registers_again(project):
    set_(project, "samples: 600 ", "samples: 500 ")
    assert ran(project) == {"evaluate", "register"}
    set_(project, "samples: 500 ", "samples: 600 ")
    assert "register" in ran(project)


def test_another_server_runs_only_the_register_stage_again(project):
    set_(project, "sqlite:///var/mlflow.db", "http://server:5000")
    assert ran(project) == {"register"}


def test_a_finished_work_directory_does_not_replace_registering(project, monkeypatch):
    monkeypatch.delenv("GANTRY_VAR", raising=False)
    calls = []

    def body(context):
        calls.append(context.key)
        (context.work / "registered.json").write_text("{}")
        return {"outputs/register/registered.json": context.work / "registered.json"}

    for _ in range(2):
        run_stage("register", body, Checkout.at(project), guard=False)
    assert len(calls) == 2
    assert calls[0] == calls[1]
