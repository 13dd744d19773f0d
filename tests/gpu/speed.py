"""How fast a step is, where its time goes, and how much of the card it uses, for each family at the sizes of the issue.

Operations are counted by torch's formulas (``torch.utils.flop_counter``) in one eager step, each update at its own interval.
Bytes are what the operations of that step read and write; compiled steps fuse them and move less, so the share of the
bandwidth is an upper bound.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gan_core.batch import Batch
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES
from gan_core.families.noise import NoiseFamily
from gan_core.files import write_json
from gan_core.memory import is_out_of_memory
from gan_core.metrics.evaluate import fid_of_samples
from gan_core.metrics.inception import load_inception
from gan_core.precision import choose_device, has_bf16
from gan_core.training.trainer import Trainer
from tests.bench.straightforward import NoiseLoop
from tests.bench.trainers import (
    auto_trainer,
    forget_memory,
    made_up_data,
    matrix_rate,
    most_memory,
    race,
    read_batches,
    run_steps,
    run_until_captured,
    seconds_of,
    wait,
)
from tests.bench.translation import Straightforward
from tests.gpu.pack import Pack
from tests.gpu.report import Row, at_least, at_most, figure, needs_cuda
from tests.gpu.tiny import SIDE, TINY
from tests.gpu.worker import Item, Options
from tests.recorded import recorded_graphs

SIZES = {
    "dcgan": (64,),
    "cgan": (64,),
    "biggan": (64,),
    "r3gan": (64,),
    "stylegan2": (128, 256),
    "pix2pix": (256,),
    "cyclegan": (128,),
    "stargan": (128,),
    "stargan2": (128,),
}
WANTED = {("dcgan", 64): 40_000.0, ("stylegan2", 128): 450.0, ("stylegan2", 256): 240.0}
"""Images per second to reach on one H100-class card."""
PUBLISHED = {
    ("stylegan2", 128): "147 (StyleGAN2-ADA, one A100)",
    ("stylegan2", 256): "80 (StyleGAN2-ADA, one A100)",
}
PEAKS = {
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": (312e12, 1.555e12),
}
"""Operations per second in bf16 and bytes per second that the maker states, by the card's whole name. The same chip is slower
on PCIe, with less memory, or as a part of a card (MIG); nothing is said of those."""
LONGEST = 10
"""Kernels listed for each family."""
CYCLE = 16
"""Steps after which every lazy regulariser has run equally often."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A family at one size, with the trainer that is measured and what another trainer of it needs."""

    name: str
    trainer: Trainer
    data: PreparedDataset
    folder: Path
    """For the files of trainers."""
    settings: dict[str, Any]
    small: bool

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.trainer.device

    @property
    def cuda(self) -> bool:
        """Whether that is a card."""
        return self.device.type == "cuda"

    def other_trainer(self, folder: str, **settings: Any) -> Trainer:
        """Another trainer of the case, with its own folder and with further settings."""
        return auto_trainer(self.name, self.data, self.folder / folder, self.device, **{**self.settings, **settings})


def items(options: Options) -> list[Item]:
    """Each family at each size, and the time of a FID."""
    cuda = choose_device().type == "cuda"
    found = [
        Item(name=f"{name} {size}", rows=partial(_family, name, size, options), seconds=150.0 if cuda else 5.0)
        for name, sizes in SIZES.items()
        for size in ((SIDE,) if options.small else sizes)
    ]
    return [*found, Item(name="fid-50k", rows=partial(_fid, options), seconds=90.0 if cuda else 1.0)]


def _family(name: str, size: int, options: Options) -> Iterator[Row]:
    device = choose_device()
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        place = Path(folder)
        data = made_up_data(
            name, place, size, 64 if options.small else 2048 if FAMILIES[name].can(NoiseFamily) else 256
        )
        settings: dict[str, Any] = {} if cuda else {"batch": 4 if options.small else 16}
        if options.small:
            settings["model"] = TINY[name]
        forget_memory(device)
        ours = auto_trainer(name, data, place / "ours", device, compile=cuda, **settings)
        case = Case(name=name, trainer=ours, data=data, folder=place, settings=settings, small=options.small)
        run_steps(ours, 10 if cuda else 1)  # compiles, records graphs, chooses kernels
        memory = most_memory(device)
        # Blocks of about three seconds, of whole cycles.
        cycle = seconds_of(partial(run_steps, ours, CYCLE), device) if cuda else 0.0
        steps = CYCLE * max(1, min(6, int(3 / cycle))) if cuda else 1
        seconds = (
            race({"ours": partial(run_steps, ours, steps)}, device, blocks=1 if options.small else 4)["ours"] / steps
        )
        shown = ours.config.batch * ours.config.discriminator_steps
        rate = shown / seconds
        note = f"batch {ours.config.batch}, {ours.config.accumulate} micro-batch(es), {1000 * seconds:.1f} ms a step"
        said: dict[str, Any] = {"published": PUBLISHED.get((name, size), ""), "note": note}
        wanted = WANTED.get((name, size))
        yield at_least("images/s", rate, wanted, **said) if wanted and cuda else figure("images/s", rate, **said)
        yield figure("peak memory", memory / 2**30, "GiB", note="of the card" if cuda else "of the process")
        yield from _shares(case, seconds)
        yield from _profiled(ours, seconds, options.folder / f"{name}-{size}.json")
        rounds = ours.config.discriminator_steps
        feed = race({"feed": partial(read_batches, ours, 20)}, device)["feed"] / 20 * rounds
        yield (
            at_most("share of a step that data takes", 100 * feed / seconds, 2.0, "%")
            if cuda
            else figure("share of a step that data takes", 100 * feed / seconds, "%")
        )
        yield from _captured(case, steps)
        yield _against_the_loop(case, steps)


def _shares(case: Case, seconds: float) -> Iterator[Row]:
    """The share of the device's arithmetic and of its bandwidth, for a step of ``seconds``."""
    device = case.device
    counted = case.other_trainer("counted", compile=False)
    operations, moved = count_step(counted)
    del counted
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    rate, copied = matrix_rate(dtype, device), copy_rate(device)
    said = f"{operations / 1e9:.1f} GFLOP a step; large matrix products reach {rate / 1e12:.2f} TFLOP/s here"
    of_maker = _stated(device)
    if of_maker:
        said += f"; {operations / seconds / of_maker[0]:.1%} of the {of_maker[0] / 1e12:.0f} that the maker states"
    details = {"operations": operations, "bytes": moved, "matrix_rate": rate, "copy_rate": copied}
    kind = str(dtype).removeprefix("torch.")
    yield figure(f"share of the {kind} peak", 100 * operations / seconds / rate, "%", note=said, details=details)
    said = f"at most: {moved / 1e9:.2f} GB a step if nothing is fused; copying reaches {copied / 1e9:.0f} GB/s here"
    if of_maker:
        said += f", the maker states {of_maker[1] / 1e9:.0f}"
    yield figure("share of the bandwidth", 100 * moved / seconds / copied, "%", note=said)


def _stated(device: torch.device) -> tuple[float, float] | None:
    if device.type != "cuda":
        return None
    return PEAKS.get(torch.cuda.get_device_name(device))


def count_step(trainer: Trainer) -> tuple[float, float]:
    """Floating-point operations of a mean step, and the bytes that its operations read and write.

    They are counted in the first step, in which everything is due, and divided by each update's interval.
    """
    operations = moved = 0.0
    counter, apply = Counter(), trainer._apply_update

    def counted(phases: Any, batches: list[Batch], turn: int) -> None:
        nonlocal operations, moved
        before = counter.operations, counter.bytes
        apply(phases, batches, turn)
        operations += (counter.operations - before[0]) / phases[0].every
        moved += (counter.bytes - before[1]) / phases[0].every

    trainer.step = 0
    with patch.object(trainer, "_apply_update", counted), counter:
        trainer._train_step()
    return operations, moved


class Counter(TorchDispatchMode):
    """Counts floating-point operations by torch's formulas, and the bytes that operations read and write; views move nothing.

    torch's own counter (``FlopCounterMode``) also follows modules, by hooks that fail where a gradient is differentiated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.operations += formula(*args, **kwargs, out_val=made)
        if not any(of.alias_info and not of.alias_info.is_write for of in func._schema.returns):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return made


def copy_rate(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes."""
    count = 2**30 if device.type == "cuda" else 2**25
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * count / min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))


def _profiled(trainer: Trainer, seconds: float, path: Path) -> Iterator[Row]:
    """Kernels and launches of a step, time of the device and of the host, and the longest kernels."""
    device = trainer.device
    cuda = device.type == "cuda"
    steps = CYCLE if cuda else 1
    host = _host_seconds(trainer, steps) if cuda else seconds
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiled:
        run_steps(trainer, steps)
        wait(device)
    events = profiled.events()
    # Annotations span kernels that are counted themselves.
    on_device = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    kernels = [event for event in on_device if not event.name.startswith(("Memcpy", "Memset"))]
    launches = [
        event for event in events if event.name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"))
    ]
    averages = [event for event in profiled.key_averages() if not event.is_user_annotation]
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    own = "self_device_time_total" if cuda else "self_cpu_time_total"
    longest = sorted((event for event in averages if event.device_type == kind), key=lambda e: -getattr(e, own))[
        :LONGEST
    ]
    total = sum(getattr(event, own) for event in averages if event.device_type == kind) or 1.0
    listed = [
        {
            "name": event.key[:200],
            "calls_per_step": round(event.count / steps, 2),
            "ms_per_step": round(getattr(event, own) / 1000 / steps, 4),
            "share": round(getattr(event, own) / total, 4),
        }
        for event in longest
    ]
    write_json(path, {"steps": steps, "ms_per_step": 1000 * seconds, "longest": listed})
    if not cuda:
        calls = sum(event.count for event in averages) / steps
        yield figure("operators a step", calls, note=f"the {LONGEST} longest are in {path.name}")
        yield needs_cuda("kernels a step")
        yield needs_cuda("share of a step in which the card computes")
        return
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6 / steps
    said = f"the {LONGEST} longest are in {path.name}; {len(launches) / steps:.0f} launches by the host"
    yield figure("kernels a step", len(kernels) / steps, note=said, details={"launches": len(launches) / steps})
    said = f"kernels {1000 * busy:.2f} ms, the host {1000 * host:.2f} ms until it has launched a step"
    share = 100 * busy / seconds
    yield figure(
        "share of a step in which the card computes", share, "%", note=said, details={"busy": busy, "host": host}
    )


def _host_seconds(trainer: Trainer, steps: int) -> float:
    """Mean seconds until the host has launched a step, without waiting for the card.

    Each step begins with an idle card: the queue of launches is limited, and a host that has filled it waits for the card.
    """
    taken = 0.0
    for _ in range(steps):
        wait(trainer.device)
        started = time.perf_counter()
        run_steps(trainer, 1)
        taken += time.perf_counter() - started
    wait(trainer.device)
    return taken / steps


def _captured(case: Case, steps: int) -> Iterator[Row]:
    """Whole steps as graphs (``compile: step``), against graphs of single calls, block by block of ``steps``."""
    said, cuda = "images/s of captured steps", case.cuda
    if not (cuda or case.small):
        yield needs_cuda(said)
        return
    try:
        with contextlib.nullcontext() if cuda else recorded_graphs():
            # Without a burn-in, in which steps with a changing beta2 are not captured.
            whole = case.other_trainer("whole", compile="step", burn_in_kimg=0.0)
            run_until_captured(whole)
            taken = race(
                {"whole": partial(run_steps, whole, steps), "ours": partial(run_steps, case.trainer, steps)},
                case.device,
                blocks=1 if case.small else 4,
            )
    except (SettingsError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error.__cause__ or error):  # a trainer's own error names the settings to change
            raise
        yield Row(name=said, state="left out", note="two trainers need more memory than there is")
        return
    if whole._captured is None:
        yield Row(name=said, state="error", note="steps are not captured; the log says why")
        return
    shown = whole.config.batch * whole.config.discriminator_steps * steps
    ratio = taken["ours"] / taken["whole"]
    if cuda:
        note = f"{ratio:.2f} times as fast; the host takes {1000 * _host_seconds(whole, steps):.2f} ms a step"
    else:
        note = "a stand-in for CUDA graphs, which repeats operation by operation"
    yield figure(said, shown / taken["whole"], note=note, details={"ratio": ratio})


def _against_the_loop(case: Case, steps: int) -> Row:
    """A step against one of the straightforward loop, block by block in the same process.

    ``steps`` are those of a block in which only ours runs; these are shorter, because the loop is slow.
    """
    said, ours = "against the straightforward loop in eager fp32", case.trainer
    if case.name == "stargan2":
        return Row(name=said, state="left out", note="no straightforward loop of StarGAN v2 has been written")
    lazy = any(phase.every > 1 for phase in ours.family.phases())
    steps, blocks = (CYCLE, 2) if lazy and not case.small else (max(steps // 8, 1), 1 if case.small else 4)
    try:
        plain: NoiseLoop | Straightforward
        if ours.family.can(NoiseFamily):
            plain = NoiseLoop(case.other_trainer("plain", precision="fp32", compile=False, accumulate=1))
        else:
            plain = Straightforward(ours)
        taken = race(
            {"ours": lambda: run_steps(ours, steps), "plain": lambda: plain.run(steps)},
            case.device,
            blocks=blocks,
        )
    except (SettingsError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error.__cause__ or error):  # as above
            raise
        return Row(name=said, state="left out", note="the loop needs more memory than there is beside ours")
    ratio = taken["plain"] / taken["ours"]
    rates = f"{1000 * taken['ours'] / steps:.1f} against {1000 * taken['plain'] / steps:.1f} ms a step"
    if case.cuda:
        return at_least(said, ratio, 2.0, "x", note=rates)
    return figure(said, ratio, "x", note=rates + "; python -m tests.bench measures processors")


def _fid(options: Options) -> Iterator[Row]:
    """Seconds of a FID of 50,000 pictures of a generator at 32 pixels, with its sampling."""
    name, device, pack = "seconds of a FID-50k at 32 pixels", choose_device(), Pack(options.pack, options.work)
    if device.type == "cpu":
        yield needs_cuda(name)
        return
    if lack := pack.lacks("weights", "cifar10"):
        yield Row(name=name, state="missing data", note=lack)
        return
    pack.use_weights()
    data, extractor = pack.dataset("cifar10"), load_inception(device)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        trainer = auto_trainer("dcgan", data, Path(folder) / "run", device)
        trainer.generator.update_statistics()
        # A first, short one computes and keeps the moments of the real pictures, which a user has once.
        measure = partial(
            fid_of_samples,
            trainer.generator.sample,
            data,
            split="train",
            seed=0,
            extractor=extractor,
            generator_digest="untrained",
        )
        once = seconds_of(lambda: measure(count=512, real_count=50_000), device)
        taken = seconds_of(lambda: measure(count=50_000), device)
    yield at_most(name, taken, 60.0, "s", note=f"the moments of the 50,000 real pictures took {once:.0f} s once")
