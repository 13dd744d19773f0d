"""Read the stages and their order from DVC's graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_core.errors import StageError, did_you_mean
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_repo import explain_dvc_error, open_project


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of DVC's graph: a stage of dvc.yaml, or a data source (a ``.dvc`` file)."""

    name: str
    """Its name for ``dvc repro``, such as ``train`` or ``data/raw/fashion-mnist.dvc``."""
    is_stage: bool
    """Whether it runs a command. For a data source, DVC only updates the hash."""
    outs: tuple[str, ...]
    """Paths relative to the checkout."""


def read_plan(checkout: Checkout, targets: Sequence[str] = ()) -> list[Node]:
    """The nodes that ``dvc repro TARGETS`` runs, in its order: each after all that it depends on.

    Args:
        checkout: a DVC project.
        targets: names of stages. If empty, all stages of dvc.yaml.

    Raises:
        StageError: there is no DVC project, no dvc.yaml, or no such stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo.reproduce import get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    with open_project(checkout) as repo:
        try:
            known = repo.stage.load_all(path=str(checkout.dvc_yaml))
            by_name = {stage.name: stage for stage in known}
            for target in targets:
                if target not in by_name:
                    raise StageError(
                        f"There is no stage '{target}' in {checkout.dvc_yaml}.{did_you_mean(target, by_name)}"
                    )
            wanted = [by_name[target] for target in targets] or list(known)
            plan = plan_repro(get_active_graph(repo.index.graph), wanted)
        except DvcException as error:
            raise StageError(f"{checkout.dvc_yaml}: {explain_dvc_error(error)}") from error
        return [
            Node(
                name=node_name(stage, checkout),
                is_stage=isinstance(stage, PipelineStage),
                outs=tuple(checkout.place(out.fs_path) for out in stage.outs),
            )
            for stage in plan
        ]


def node_name(stage: Any, checkout: Checkout) -> str:
    """The name of a stage of DVC, or the path of a data source, as ``dvc repro`` in ``checkout`` takes it.

    A DVC project may have more than one dvc.yaml. A stage of another one is called ``sub/dvc.yaml:train``.
    """
    from dvc.stage import PipelineStage

    place = checkout.place(stage.path)
    if not isinstance(stage, PipelineStage):
        return place
    return stage.name if Path(stage.path) == checkout.dvc_yaml else f"{place}:{stage.name}"
