"""Stages and their order, read from DVC's own graph: nothing here names a stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gan_core.errors import StageError, nearest
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_repo import explain_dvc_error, open_project


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node of DVC's graph: a stage of dvc.yaml, or a data source (a ``.dvc`` file)."""

    name: str
    """What ``dvc repro`` calls it: ``train``, or ``data/raw/fashion-mnist.dvc``."""
    is_stage: bool
    """Whether it runs a command; a data source only has its hash brought up to date."""
    outs: tuple[str, ...]
    """Paths relative to the checkout."""


def read_plan(checkout: Checkout, targets: Sequence[str] = ()) -> list[Node]:
    """What ``dvc repro TARGETS`` evaluates, in its order: each target after everything that it needs.

    Args:
        checkout: a DVC project.
        targets: names of stages; all of dvc.yaml when empty.

    Raises:
        StageError: no DVC project, no dvc.yaml, or no such stage (names the nearest).
    """
    from dvc.exceptions import DvcException
    from dvc.repo.reproduce import get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    root = checkout.root
    with open_project(checkout) as repo:
        try:
            known = repo.stage.load_all(path=str(checkout.dvc_yaml))
            by_name = {stage.name: stage for stage in known}
            for target in targets:
                if target not in by_name:
                    raise StageError(f"There is no stage '{target}' in {checkout.dvc_yaml}.{nearest(target, by_name)}")
            wanted = [by_name[target] for target in targets] or list(known)
            plan = plan_repro(get_active_graph(repo.index.graph), wanted)
        except DvcException as error:
            raise StageError(f"{checkout.dvc_yaml}: {explain_dvc_error(error)}") from error
        return [
            Node(
                name=stage.name if isinstance(stage, PipelineStage) else Path(stage.path).relative_to(root).as_posix(),
                is_stage=isinstance(stage, PipelineStage),
                outs=tuple(Path(out.fs_path).relative_to(root).as_posix() for out in stage.outs),
            )
            for stage in plan
        ]
