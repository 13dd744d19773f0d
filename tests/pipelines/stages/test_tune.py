"""Without a search, the stage tune keeps the settings; a search from an earlier run is checked before its first trial."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError, StageError
from gan_core.training.trainer import Trainer
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import StageDefinition
from pipelines.stages import tune
from pipelines.stages.context import StageContext
from pipelines.stages.parent import parent_inputs
from tests.datasets import blobs, write_prepared
from tests.pipelines.settings_example import small_settings
from tests.pipelines.toy import dvc, make_project


def test_dvc_plots_a_run_without_a_search_and_says_nothing(tmp_path: Path) -> None:
    of_tune = [
        plot for plot in yaml.safe_load(Path("dvc.yaml").read_text())["plots"] if "outputs/tune" in json.dumps(plot)
    ]
    assert len(of_tune) == 2
    project = make_project(tmp_path, {"dvc.yaml": yaml.safe_dump({"plots": of_tune})})
    context = StageContext(
        name="tune",
        key="key",
        work=tmp_path / "work",
        checkout=Checkout.at(project),
        pipeline_run="run",
        definition=StageDefinition(
            name="tune", command=(), dependencies={}, parameters={}, outs=("outputs/tune",), replayable=True
        ),
    )
    context.work.mkdir()
    for out, made in tune.run(context, small_settings(tune__trials=0)).items():
        (project / out).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, project / out)
    assert json.loads((project / "outputs/tune/best.json").read_text()) == {"parameters": {}, "fid": None}
    found = json.loads(dvc("plots", "show", "--json", cwd=project).stdout)  # a warning would be there, too
    assert "errors" not in found
    assert found["data"]["Trials of the search"] == [], "there are no trials to draw"
    assert len(found["data"]["outputs/tune/search.png"]) == 1


def test_a_search_of_what_the_run_to_start_from_fixes_ends_before_its_first_trial(tmp_path: Path) -> None:
    data = PreparedDataset(write_prepared(tmp_path / "data" / "prepared", blobs(32)), tmp_path / "decoded")
    plain = small_settings()
    parent = Trainer("dcgan", plain.model.config, data, plain.train.trainer_config(), tmp_path / "run", device="cpu")
    parent.export_start(tmp_path / "start")
    width = {"model.width": {"type": "choice", "values": [8, 16]}}
    settings = small_settings(train__start_from="start", tune__space=width)
    checkout = Checkout.at(tmp_path, {})
    checkout.params.write_text(yaml.safe_dump(settings.as_dict()))
    definition = StageDefinition(
        name="tune", command=(), dependencies={}, parameters={}, outs=("outputs/tune",), replayable=True
    )
    definition = definition.with_inputs(parent_inputs(definition, checkout))
    context = StageContext(
        name="tune",
        key=definition.key,
        work=checkout.work("tune", definition.key),
        checkout=checkout,
        pipeline_run="run",
        definition=definition,
    )
    with pytest.raises(SettingsError, match="'model.width' cannot be searched if trials start from start"):
        tune.run(context, settings)
    assert [path.name for path in context.work.iterdir()] == ["parent"], "no trial has begun"


def test_a_search_does_not_begin_anew_because_its_state_is_elsewhere(tmp_path: Path) -> None:
    write_prepared(tmp_path / "data" / "prepared", blobs(32))
    work = tmp_path / "work" / "key"
    work.mkdir(parents=True)
    (work / "search.zip").touch()
    definition = StageDefinition(
        name="tune", command=(), dependencies={}, parameters={}, outs=("outputs/tune",), replayable=True
    )
    context = StageContext(
        name="tune",
        key="key",
        work=work,
        checkout=Checkout.at(tmp_path, {}),
        pipeline_run="run",
        definition=definition,
    )
    with pytest.raises(StageError, match=f"interrupted run of stage 'tune' keeps its work in {work}, "):
        tune.run(context, small_settings(storage__uri=f"file://{tmp_path}/storage"))
