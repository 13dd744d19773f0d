"""Without a search, the stage tune keeps the settings and leaves files that DVC shows without a complaint."""

import json
import shutil
from pathlib import Path

import yaml

from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import StageDefinition
from pipelines.stages import tune
from pipelines.stages.context import StageContext
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
