"""The flow that a deployment runs on a worker: its parameters are the form in Prefect's page.

``prefect.yaml`` names this module, so a worker runs the Gantry that is installed on its host, and the stages run with the
code of their revision.
"""

import os
from typing import Any

from pipelines.runtime.account import ensure_account
from pipelines.runtime.environment import DEFAULTS

ensure_account()  # DVC needs the name of the user; Prefect's worker may run as one without a name
for _name, _value in DEFAULTS.items():  # before libraries that read them are imported
    os.environ.setdefault(_name, _value)

from prefect import flow  # noqa: E402
from prefect.states import State  # noqa: E402

from pipelines.flow.client_requests import ServedPipeline  # noqa: E402
from pipelines.flow.flow import StageResult, run_flow  # noqa: E402
from pipelines.flow.flow_runs import FLOW_NAME  # noqa: E402
from pipelines.flow.pull import ORIGIN, clone_folder  # noqa: E402
from pipelines.runtime.checkout import Checkout  # noqa: E402
from pipelines.runtime.git import ANY_STATUS, run_git  # noqa: E402


@flow(name=FLOW_NAME, persist_result=False, validate_parameters=True)
def pipeline(
    revision: str,
    stages: list[str] = [],  # noqa: B006 (Prefect's form shows the default)
    overrides: dict[str, Any] = {},  # noqa: B006
) -> list[StageResult] | State:
    """Train a GAN at a revision: run the stages that changed, and record the run as a DVC experiment.

    Args:
        revision: Branch, tag or commit to run, with its settings and its data. A branch is resolved again at each run.
        stages: Run only these stages and those that they depend on: ingest, tune, train, evaluate, register. Empty: all.
        overrides: Settings of model, train, tune and evaluate for this run, by dotted name: {"train.steps": 20000}.
    """
    checkout = Checkout.at()
    # As clone has written it: git remote get-url applies the host's url.*.insteadOf, with which the folder has another name.
    origin = run_git(checkout.root, "config", "--get", f"remote.{ORIGIN}.url", empty_on=ANY_STATUS)
    # A clone of pull.clone belongs to the deployments of this host; in any other checkout, origin is the user's own affair.
    cloned = bool(origin) and checkout.root.is_relative_to(clone_folder(origin).resolve())
    served = ServedPipeline(revision=None, origin=origin if cloned else None)
    return run_flow(checkout, served, stages, revision, overrides)
