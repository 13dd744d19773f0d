"""``gantry plan``: what a run would do, before it starts."""

import json
import os
import sys
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipelines.flow.forecast import Forecast
    from pipelines.flow.plan import PlannedStage

_WIDTH = 100
"""Columns of the output."""


@click.command()
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--verbose", is_flag=True, help="List all changes since each stage last ran, one a line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(stages: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Say what gantry run would do now, without running anything.

    Lists the stages that will run and why; and for training the workers and where they fit, memory and disk on each of their
    hosts, the expected time, and the data that has to travel to the storage. Asks the cluster at RAY_ADDRESS for its nodes if
    that is set, else takes this machine. Writes nothing but DVC's cache of file hashes and .gantry/code.

    Exit status 1 if the run would fail: data is missing, or the workers fit nowhere.
    """
    # Imported here: --help need not wait for torch and DVC.
    from pipelines.flow.plan import plan_stages
    from pipelines.runtime.checkout import Checkout
    from pipelines.settings.schema import load_settings

    checkout = Checkout.at()
    planned = plan_stages(checkout, stages)
    settings = load_settings(checkout.params)
    training: dict[str, Any] = {}
    if any(stage.name == "train" and stage.action in ("runs", "may run") for stage in planned):
        training = _plan_training(
            checkout, settings, any(s.name == "ingest" and s.action != "up to date" for s in planned)
        )
    fails = any(stage.action == "missing" for stage in planned) or "problem" in training
    if as_json:
        click.echo(json.dumps({"stages": [asdict(stage) for stage in planned], "training": training}, indent=2))
        sys.exit(1 if fails else 0)
    width = max((len(stage.name) for stage in planned), default=0)
    for stage in planned:
        action = stage.action.upper() if stage.action == "missing" else stage.action
        line = f"{stage.name:<{width}}  {action:<10}  "
        if verbose:
            click.echo("\n".join([f"{line}{stage.reason}".rstrip(), *(f"  {change}" for change in stage.changes)]))
        else:
            click.echo(f"{line}{_why(stage, _WIDTH - len(line))}".rstrip())
    for stage in planned:
        if stage.remedy:
            click.echo(f"\n{_wrap(stage.remedy)}")
    if training:
        click.echo()
    for name, text in training.items():
        click.echo(_wrap(f"{name:<9} {text}", indent=10))
    sys.exit(1 if fails else 0)


def _why(stage: "PlannedStage", room: int) -> str:
    """Why a stage runs: its reason, and as many of its changes as ``room`` characters hold."""
    before = f"{stage.reason}; " if stage.reason else ""
    for shown in range(len(stage.changes), 0, -1):
        left = len(stage.changes) - shown
        text = before + ", ".join(stage.changes[:shown]) + (f" and {left} more" if left else "")
        if len(text) <= room:
            return text
    return f"{before}{len(stage.changes)} change(s)" if stage.changes else stage.reason


def _wrap(text: str, indent: int = 0) -> str:
    # The words stay whole: some are paths and addresses, to be copied.
    return textwrap.fill(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _plan_training(checkout: Any, settings: Any, changes: bool) -> dict[str, str]:
    """Lines about the train stage by their title; ``problem`` if its workers fit nowhere."""
    from gan_core.disk import format_bytes
    from gan_core.errors import DataError, SettingsError
    from gan_core.precision import choose_device
    from gan_core.training.stream import streaming_reason
    from pipelines.flow.forecast import forecast
    from pipelines.runtime.progress import format_duration
    from pipelines.runtime.resources import allocate

    told: dict[str, str] = {}
    nodes = _nodes(checkout)
    least, most = settings.train.workers
    try:
        share = allocate(nodes, least, most, setting="train.num_workers", what="workers")
    except SettingsError as error:
        return {"nodes": "; ".join(map(str, nodes)), "problem": str(error)}
    each = "one GPU" if share.gpus else f"{share.cpus} CPU core(s)"
    fitting = [
        node.name
        for node in nodes
        if (min(node.cpus // share.cpus, node.gpus) if share.gpus else node.cpus // share.cpus)
    ]
    told["workers"] = f"{share.processes} with {each} each, on {', '.join(fitting)}"
    device = choose_device("auto" if share.gpus else "cpu")
    try:
        dataset = _dataset(checkout, settings)
    except DataError:
        return {**told, "data": "not prepared yet: memory, disk and time are known after gantry run ingest"}
    elsewhere = share.gpus > 0 and device.type != "cuda"
    if elsewhere:
        told["note"] = "the workers use GPUs, which this machine does not have: the memory is that of a step on its CPU"
    if settings.model.preset != "none":
        chosen, _ = settings.choices(dataset.info, device)
        settings = settings.with_values({"model.preset": "none", **{choice.name: choice.value for choice in chosen}})
    found = forecast(
        settings,
        dataset,
        device,
        threads=share.cpus,
        workers=share.processes,
        events=checkout.events,
        elsewhere=elsewhere,
    )
    if changes:
        told["data"] = "ingestion runs first: the figures below are those of the data prepared now"
    told["memory"] = f"{format_bytes(found.memory)} a worker for a step; Ray and libraries come on top"
    reason = streaming_reason(dataset, settings.train)
    if reason and dataset.remote:
        data = f"training streams its data through at most {settings.storage.cache_gib:g} GiB on each host ({reason})"
    elif reason:
        data = f"training streams the prepared data, without a copy ({reason})"
    else:
        data = f"{format_bytes(found.data)} of decoded pictures on each host with a worker"
    checkpoints = (
        f"checkpoints of {format_bytes(found.checkpoint)}, {format_bytes(found.kept)} at most at the same time"
    )
    told["disk"] = f"{data}; {checkpoints}"
    duration = "unknown" if found.seconds is None else format_duration(found.seconds)
    if settings.train.minutes is None:
        told["time"] = f"{duration} for {found.steps} steps, without start-up and FIDs ({found.source})"
    else:
        about = "an unknown number of" if found.steps is None else f"at most about {found.steps}"
        told["time"] = (
            f"{duration} (train.minutes), without start-up: {about} steps, fewer if FIDs take long; training measures and "
            f"fixes the number before its first step ({found.source})"
        )
    told["travels"] = _travels(checkout, settings, found, len(fitting))
    return told


def _dataset(checkout: Any, settings: Any) -> Any:
    """The prepared data, as the train stage opens it: in parts if it is larger than the cache of a host."""
    from gan_core.data import PreparedDataset
    from gan_core.shards import FolderShards
    from pipelines.storage.node_cache import folder_size

    folder, limit = checkout.prepared, settings.storage.cache_gib * 2**30
    in_parts = settings.storage.resolve_uri() and folder.is_dir() and folder_size(folder) > limit
    return PreparedDataset(folder, shards=FolderShards(folder) if in_parts else None)


def _nodes(checkout: Any) -> list[Any]:
    """Nodes of the cluster, or this machine as Ray would see it."""
    import socket

    import ray
    import torch

    from pipelines.runtime.cluster import ray_cluster
    from pipelines.runtime.resources import Node, cluster_nodes, usable_cpus

    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        with ray_cluster(checkout, log_to_driver=False, send_code=False):
            return cluster_nodes()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [Node(name=socket.gethostname(), cpus=usable_cpus(), gpus=gpus)]


def _travels(checkout: Any, settings: Any, found: "Forecast", hosts: int) -> str:
    """What goes to and from the storage."""
    from gan_core.data import DATASET_FILE
    from gan_core.disk import format_bytes
    from gan_core.files import sha256_file
    from pipelines.storage.folders import data_name, read_note
    from pipelines.storage.node_cache import folder_size
    from pipelines.storage.objects import MissingObjectError, Storage

    uri = settings.storage.resolve_uri()
    if not uri:
        return "nothing: without storage.uri everything stays on this machine"
    size = format_bytes(folder_size(checkout.prepared))
    try:
        read_note(Storage(uri, patience=20), data_name(sha256_file(checkout.prepared / DATASET_FILE)))
        sent = f"the prepared data ({size}) is in {uri} already"
    except MissingObjectError:
        sent = f"{size} of prepared data to {uri}"
    fetched = f"at most {hosts} time(s) {size} to hosts without it"
    every = settings.train.checkpoint_every
    count = "an unknown number of" if found.steps is None else str(-(-found.steps // every))
    return f"{sent}; {fetched}; {count} checkpoint(s) of {format_bytes(found.checkpoint)} there"
