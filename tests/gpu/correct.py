"""Whether the fast paths of a card compute what plain ones do: each against fp32 eager, or against the processor.

Gradients are compared as relative errors, |a - b| / |b| in the Euclidean norm over all parameters that an update trains, from
the same weights, pictures and random numbers.
"""

import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from gan_core import randomness
from gan_core.augment import AugmentConfig
from gan_core.augment.augmenter import Augmenter
from gan_core.batch import Batch
from gan_core.checkpoint import list_checkpoints, load_checkpoint
from gan_core.families import FAMILIES
from gan_core.metrics.evaluate import feature_estimates, fid
from gan_core.metrics.features import Features
from gan_core.metrics.frechet import Moments
from gan_core.metrics.inception import load_inception
from gan_core.metrics.sources import DatasetSplit
from gan_core.precision import choose_device
from gan_core.randomness import WorkerSlice
from gan_core.training import feed as feeds
from gan_core.training.adam import Adam
from gan_core.training.backends import cudnn_kernels
from gan_core.training.feed import Feed
from gan_core.training.trainer import Trainer
from tests.bench.straightforward import torchs_second_gradients
from tests.bench.trainers import (
    NEVER,
    auto_trainer,
    cycle_of,
    forget_memory,
    made_up_data,
    run_steps,
    run_until_captured,
)
from tests.gpu import drawn
from tests.gpu.pack import Pack
from tests.gpu.report import Row, at_most, holds, largest, needs_cuda
from tests.gpu.tiny import TINY
from tests.gpu.worker import Item, Options
from tests.recorded import recorded_graphs

TRACED, SECOND = 1e-3, 1e-5
"""Largest relative errors of gradients: of compiled networks in fp32, and of penalties by quick second derivatives."""
CAPTURED = 1e-3
"""Largest relative errors of captured steps: their kernels are those of uncaptured ones, but some add in any order."""
BF16, BF16_OF_CYCLES = 0.2, 0.4
"""The same for bf16. The gradient of an L1 loss between a picture and its return is a sign, which rounding turns where they are
nearly equal. A processor shows 0.13 and 0.26 at 32 pixels."""
CYCLES = ("cyclegan", "stargan", "stargan2")
PUBLISHED_FID = 3.15
"""FID of the 50,000 pictures of CIFAR-10's train split against the 10,000 of its test split."""
MODEL: dict[str, dict[str, object]] = {
    # Otherwise lazy or absent at these sizes, and every path should run.
    "stylegan2": {"path_length": 2.0},
    "cyclegan": {"pool": 8},
}


class Bench:
    """Trainers of one family on made-up pictures, in a folder that is removed at the end."""

    def __init__(self, name: str, options: Options) -> None:
        self.name, self.device, self.small = name, choose_device(), options.small
        self._size, self._batch = (16, 4) if options.small else (64, 16) if self.device.type == "cuda" else (32, 8)
        self._model = MODEL.get(name, {})
        if options.small and self.device.type == "cpu":
            self._model = {**self._model, **TINY.get(name, {})}
        self._folder = tempfile.TemporaryDirectory(dir=options.work)
        self.place = Path(self._folder.name)
        self._data = made_up_data(name, self.place, self._size, 64)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
        forget_memory(self.device)

    def trainer(self, place: str = "run", **settings: Any) -> Trainer:
        """A trainer with the settings of ``auto`` and these; by default eager, in fp32, without augmentation."""
        chosen: dict[str, Any] = {"batch": self._batch, "accumulate": 1, "precision": "fp32", "compile": False}
        chosen["augment"] = {"kind": "none"}
        return auto_trainer(
            self.name, self._data, self.place / place, self.device, model=self._model, **{**chosen, **settings}
        )


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    """The gradients of every update of the first step, as one vector each, by the name of its first phase.

    All phases are due in that step. No weight moves, so that the generator's gradients do not depend on the discriminator's.
    """
    found: dict[str, Tensor] = {}
    apply = trainer._apply_update

    def recorded(phases: Any, batches: list[Batch], turn: int) -> None:
        apply(phases, batches, turn)
        flat = [p.grad.flatten() for p in trainer._trained[phases[0].side] if p.grad is not None]
        found[phases[0].name] = torch.cat(flat).float().clone()

    trainer.step = 0
    # What a step moves besides weights, such as a pool of earlier pictures or the vectors of spectral norms.
    before = {name: tensor.detach().clone() for name, tensor in trainer._state.tensors().items()}
    with (
        patch.object(trainer, "_apply_update", recorded),
        patch.object(trainer.optimisers["discriminator"], "step", lambda: None),
        patch.object(trainer.optimisers["generator"], "step", lambda: None),
    ):
        trainer._train_step()
    trainer._state.load(before)
    return found


def relative(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative error over updates, and the errors of all in words."""
    errors = {name: _relative(found[name], expected[name]) for name in expected}
    return largest(errors.values()), ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """fp32 without TF32, which torch uses for convolutions on a card, so that only rounding is left."""
    backends = cast(Any, (torch.backends.cudnn.conv, torch.backends.cuda.matmul))
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextlib.contextmanager
def drawn_on_processor() -> Iterator[None]:
    """Random numbers come from the processor, whose generator gives others than that of a card for the same seed."""

    def moved(draw: randomness.Draw) -> Tensor:
        return dataclasses.replace(draw, device=torch.device("cpu")).make().to(draw.device)

    with randomness.drawn_by(moved):
        yield


def items(options: Options) -> list[Item]:
    """Checks of each family, then those that need none."""
    found = []
    checks: dict[str, Callable[[Bench], Iterable[Row]]] = {
        "gradients": _gradients,
        "penalties": _penalties,
        "resume": _resume,
        "captured": _captured,
        "waiting": _waiting,
    }
    for name in FAMILIES:
        for check, rows in checks.items():
            seconds = 60.0 if check in ("gradients", "captured") and choose_device().type == "cuda" else 10.0
            found.append(Item(name=f"{name} {check}", rows=partial(_in_bench, name, options, rows), seconds=seconds))
    general: dict[str, Callable[[Options], Iterable[Row]]] = {
        "optimiser": _optimiser,
        "augmentation": _augmentation,
        "feed": _feed,
        "metrics": _metrics,
        "inception": _inception,
        "fid of cifar10": _fid_of_cifar10,
    }
    found += [Item(name=name, rows=partial(rows, options), seconds=10.0) for name, rows in general.items()]
    return found


def _in_bench(name: str, options: Options, rows: Callable[[Bench], Iterable[Row]]) -> Iterator[Row]:
    with Bench(name, options) as bench:
        yield from rows(bench)


# -- one family ------------------------------------------------------------------------------------------------------


def _gradients(bench: Bench) -> Iterator[Row]:
    with exact_fp32():
        expected = gradients(bench.trainer("fp32"))
        low = gradients(bench.trainer("bf16", precision="bf16"))
        error, each = relative(low, expected)
        tolerance = BF16_OF_CYCLES if bench.name in CYCLES else BF16
        yield at_most("bf16 against fp32", error, tolerance, note=each)
        if bench.small:  # torch imports its compiler for longer than all else takes
            yield Row(
                name="traced networks against eager", state="left out", note="tests/gan_core/families traces them"
            )
        else:
            traced = bench.trainer("traced")
            traced.family.compile(backend="aot_eager", dynamic=False)
            error, each = relative(gradients(traced), expected)
            yield at_most("traced networks against eager", error, TRACED, note=each)
        names = ("compiled networks against eager", "replayed CUDA graphs against eager")
        if bench.device.type != "cuda":
            yield from (needs_cuda(name) for name in names)
            return
        before = skipped_graphs()
        compiled = bench.trainer("compiled", compile=True)
        for name, calls in zip(names, (1, 3), strict=True):  # graphs are recorded in the second call
            for _ in range(calls):
                found = gradients(compiled)
            error, each = relative(found, expected)
            yield at_most(name, error, TRACED, note=each + _without_graphs(before))
        before = skipped_graphs()
        both = bench.trainer("both", compile=True, precision="bf16")
        for _ in range(3):
            found = gradients(both)
        error, each = relative(found, expected)
        note = each + _without_graphs(before)
        yield at_most("replayed CUDA graphs in bf16 against eager fp32", error, tolerance, note=note)


def skipped_graphs() -> int:
    """How often torch has run something compiled without a CUDA graph."""
    compiler = sys.modules.get("torch._dynamo.utils")  # not there before the first compilation
    return int(compiler.counters["inductor"]["cudagraph_skips"]) if compiler else 0


def _without_graphs(before: int) -> str:
    """What was not replayed since there were ``before`` skipped graphs, for a note."""
    skipped = skipped_graphs() - before
    return f"; {skipped} of torch's graphs were not CUDA graphs; TORCH_LOGS=cudagraphs says why" if skipped else ""


def _penalties(bench: Bench) -> Iterator[Row]:
    trainer = bench.trainer()
    name = "second derivatives of penalties against torch's"
    if not trainer.family.penalties():
        yield Row(name=name, state="left out", note=f"{bench.name} has no penalty as auto sets it up")
        return
    with exact_fp32():
        quick = gradients(trainer)
        with torchs_second_gradients():
            error, each = relative(quick, gradients(trainer))
    yield at_most(name, error, SECOND, note=each)


def _resume(bench: Bench) -> Iterator[Row]:
    settings = {"precision": "auto", "checkpoint_every": 2, "steps": 4}
    if FAMILIES[bench.name].augmentable:
        settings["augment"] = {"kind": "ada", "strength": 0.5}
    bench.trainer("whole", **settings).run()
    bench.trainer("parts", **settings).run(2)
    parts = bench.trainer("parts", **settings)
    assert parts.step == 2, "the second trainer did not resume"
    parts.run()
    whole, resumed = (load_checkpoint(list_checkpoints(bench.place / name)[0]).tensors for name in ("whole", "parts"))
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    yield holds(
        "a resumed run ends with the same bytes",
        whole.keys() == resumed.keys() and not different,
        "same bytes",
        note=f"{len(different)} of {len(whole)} tensors differ: {', '.join(different[:5])}" if different else "",
    )


def _captured(bench: Bench) -> Iterator[Row]:
    """Whole steps as graphs; on a processor by a stand-in that repeats their operations on the same memory."""
    on_card = bench.device.type == "cuda"
    tolerance = CAPTURED if on_card else 0.0
    settings: dict[str, Any] = {"compile": "step", "checkpoint_every": 3, "burn_in_kimg": 0.0}
    if FAMILIES[bench.name].augmentable:
        settings["augment"] = {"kind": "diffaugment"}
    with contextlib.nullcontext() if on_card else recorded_graphs():
        whole = bench.trainer("whole", **settings)
        whole.run(3)
        shutil.copytree(bench.place / "whole", bench.place / "parts")
        whole.run(6)
        parts = bench.trainer("parts", **settings)
        assert parts.step == 3, "the second trainer did not resume"
        parts.run(6)
        error = _relative(_weights(parts), _weights(whole))
        del parts
        yield at_most("a resumed run of captured steps against an unbroken one", error, tolerance)
        # No checkpoints, for which the host waits.
        whole.config = dataclasses.replace(whole.config, checkpoint_every=NEVER)
        period = run_until_captured(whole)
        if whole._captured is None:
            yield holds("steps are captured", False, "captured", note="the log says why they are not")
            return
        errors = [_captured_against_uncaptured(whole) for _ in range(period)]
    weights, losses = (largest(found) for found in zip(*errors, strict=True))
    note = f"of {period} steps in turn" + ("" if on_card else "; a stand-in for CUDA graphs on a processor")
    yield at_most("captured steps against uncaptured ones: change of the weights", weights, tolerance, note=note)
    yield at_most("captured steps against uncaptured ones: metrics", losses, tolerance, note=note)


def _captured_against_uncaptured(trainer: Trainer) -> tuple[float, float]:
    """Relative errors of a captured step, from the same state: of the change of the weights, and of the largest metric."""
    state = trainer._state.tensors()
    before = {name: tensor.clone() for name, tensor in state.items()}
    start, moves, metrics = _weights(trainer), [], []
    trainer._set_rates()
    captured = trainer._captured
    for steps in (None, captured):
        for name, tensor in state.items():
            tensor.copy_(before[name])
        trainer._window.start()
        with patch.object(trainer, "_captured", steps), cudnn_kernels(deterministic=False):
            trainer._train_step()
        moves.append(_weights(trainer) - start)
        names, row = trainer._window.means()
        metrics.append(dict(zip(names, row.tolist(), strict=True)))
    trainer.step += 1
    shared = metrics[0].keys() & metrics[1].keys()  # only captured steps always measure the norm of the gradients
    errors = [abs(metrics[1][name] - metrics[0][name]) / max(abs(metrics[0][name]), 1e-3) for name in shared]
    return _relative(moves[1], moves[0]), largest(errors)


def _weights(trainer: Trainer) -> Tensor:
    """All trained weights as one vector."""
    networks = trainer.family.networks.values()
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()]).clone()


def _waiting(bench: Bench) -> Iterator[Row]:
    cases: dict[str, dict[str, Any]] = {
        "an eager step never waits for the card": {"precision": "auto"},
        "a compiled step never waits for the card": {"precision": "auto", "compile": True},
        "a captured step never waits for the card": {"precision": "auto", "compile": "step", "burn_in_kimg": 0.0},
    }
    for name, settings in cases.items():
        if bench.device.type != "cuda":
            yield needs_cuda(name)
            continue
        trainer = bench.trainer(name.split()[1], **settings)
        cycle = cycle_of(trainer)
        run_steps(trainer, max(6, 2 * cycle))  # constants are made, graphs are recorded, also of lazy penalties
        if settings.get("compile") == "step":
            run_until_captured(trainer)
            if trainer._captured is None:
                yield holds(name, False, "no waiting", note="steps are not captured; the log says why")
                continue
        torch.cuda.set_sync_debug_mode("error")
        try:
            run_steps(trainer, max(12, cycle))
        except RuntimeError as error:
            yield holds(name, False, "no waiting", note=str(error)[:300])
        else:
            yield holds(name, True, "no waiting")
        finally:
            torch.cuda.set_sync_debug_mode("default")


# -- all families ----------------------------------------------------------------------------------------------------


def _optimiser(options: Options) -> Iterator[Row]:
    """Gantry's Adam by the fused kernel, in both memory layouts, against the formula (Kingma & Ba 2015) in float64."""
    device = choose_device()
    torch.manual_seed(0)
    values = [torch.randn(8, 4, 3, 3, device=device), torch.randn(16, device=device)]
    values.append(values[0].to(memory_format=torch.channels_last))
    parameters, (low, high), rate = [torch.nn.Parameter(value.clone()) for value in values], (0.5, 0.99), 1e-3
    fused = Adam(parameters, rate, (low, high))
    exact = [(value.double(), torch.zeros_like(value).double(), torch.zeros_like(value).double()) for value in values]
    for step in range(1, 6):
        for index, parameter in enumerate(parameters):
            parameter.grad = torch.randn_like(parameter)
            weight, mean, square = exact[index]
            mean = low * mean + (1 - low) * parameter.grad
            square = high * square + (1 - high) * parameter.grad.double() ** 2
            move = mean / (1 - low**step) / ((square / (1 - high**step)).sqrt() + 1e-8)
            exact[index] = weight - rate * move, mean, square
        fused.step()
    error = largest(
        _relative(parameter.detach(), weight) for parameter, (weight, _, _) in zip(parameters, exact, strict=True)
    )
    yield at_most("fused Adam against the formula, after 5 steps", error, 1e-6)


def _augmentation(options: Options) -> Iterator[Row]:
    """The augmentations as compiled runs have them, against eager ones, and on the card against the processor."""
    device, size = choose_device(), 16 if options.small else 64
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for kind, strength in (("diffaugment", None), ("ada", 0.8)):
        config = AugmentConfig(kind=cast(Any, kind), strength=strength)
        made = {}
        places = {"eager": (device, False), "fused": (device, True), "processor": (torch.device("cpu"), False)}
        for name, (place, fused) in places.items():
            batch = Batch(real=images.to(place), labels=None, key=(0, 0, 0), part=WorkerSlice())
            # Fused, DiffAugment is compiled, which takes a processor a minute, and ADA skips an order of its sums.
            augmenter = Augmenter(config, 1000, fused=fused and device.type == "cuda").to(place)
            if fused and device.type == "cpu":
                if kind == "diffaugment":
                    continue
                augmenter._exact = False
            with drawn_on_processor():
                made[name] = augmenter(batch.real, batch, "real").cpu()
        said = f"{kind} in compiled runs against eager"
        yield at_most(said, _relative(made["fused"], made["eager"]), 1e-3) if "fused" in made else needs_cuda(said)
        said = f"{kind} on the card against the processor"
        if device.type == "cpu":
            yield needs_cuda(said)
        else:
            yield at_most(said, _relative(made["eager"], made["processor"]), 1e-3)


def _feed(options: Options) -> Iterator[Row]:
    """Batches of data kept on the device and of data read from a map, over the end of an epoch."""
    device = choose_device()
    pixels, labels = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8)).astype(np.uint8), np.arange(40) % 2
    kinds: dict[str, tuple[np.ndarray | None, dict[str, Any]]] = {
        "labelled": (labels, {}),
        "paired": (None, {"conditions": 255 - pixels}),
        "unpaired": (labels, {"unpaired": True}),
    }
    for kind, (of, more) in kinds.items():

        def feed(of: np.ndarray | None = of, more: dict[str, Any] = more) -> Feed:
            return Feed(
                pixels, of, batch=16, seed=3, device=device, part=WorkerSlice(), mirror=True, jitter=0.2, **more
            )

        resident = feed()
        with (
            patch.object(feeds, "available_memory", lambda: 0),
            patch.object(torch.cuda, "mem_get_info", lambda *_: (0, 0)),
        ):
            mapped = feed()
        assert resident._resident
        assert not mapped._resident
        same = all(
            (a is None and b is None) or torch.equal(a, b)
            for step in range(6)
            for a, b in zip(resident(step), mapped(step), strict=True)
        )
        yield holds(f"{kind} data on the device and in a map", same, "same bytes")


def _metrics(options: Options) -> Iterator[Row]:
    """KID and the metrics of neighbours on the device, against the processor."""
    device, count = choose_device(), 200 if options.small else 3000
    name = "KID, precision, recall, density, coverage on the card against the processor"
    if device.type == "cpu":
        yield needs_cuda(name)
        return
    rng, sets = np.random.default_rng(0), []
    for shift in (0.0, 0.2):
        rows = np.abs(rng.normal(shift, 1, (count, 256))).astype(np.float32)
        moments = Moments(256)
        moments.update(rows)
        sets.append(Features(moments, rows))
    found, expected = (feature_estimates(*sets, interval=False, full=True, device=place)[0] for place in (device, None))
    errors = {
        key: abs(found[key].value - expected[key].value) / max(abs(expected[key].value), 1e-6) for key in expected
    }
    yield at_most(name, largest(errors.values()), 1e-3, note=", ".join(f"{k} {v:.1e}" for k, v in errors.items()))


def _inception(options: Options) -> Iterator[Row]:
    """Features in fp32 on the card, against those of the processor."""
    name = "Inception features in fp32 on the card against the processor"
    device, pack = choose_device(), Pack(options.pack, options.work)
    if device.type == "cpu":
        yield needs_cuda(name)
        return
    if lack := pack.lacks("weights"):
        yield Row(name=name, state="missing data", note=lack)
        return
    pack.use_weights()
    pictures = torch.from_numpy(drawn.faces(0, 32, 64))
    features = {place: load_inception(place)(pictures).cpu() for place in (device, torch.device("cpu"))}
    yield at_most(name, _relative(features[device], features[torch.device("cpu")]), 1e-4)
    low = load_inception(device, "bf16")(pictures).cpu()
    yield at_most("Inception features in bf16 against fp32", _relative(low, features[device]), 0.05)


def _fid_of_cifar10(options: Options) -> Iterator[Row]:
    """The FID that others have published for the two splits of CIFAR-10."""
    name, pack = "FID of CIFAR-10, train 50k against test 10k", Pack(options.pack, options.work)
    published = f"{PUBLISHED_FID} (Karras et al. 2020's protocol)"
    if choose_device().type == "cpu":
        yield needs_cuda(name, published=published, note="60,000 pictures take a processor hours")
        return
    if lack := pack.lacks("weights", "cifar10"):
        yield Row(name=name, state="missing data", published=published, note=lack)
        return
    pack.use_weights()
    data = pack.dataset("cifar10")
    found = fid(
        DatasetSplit(data, "train"),
        DatasetSplit(data, "test"),
        extractor=load_inception(choose_device()),
        fake_count=10_000,
    )
    off = abs(found.value - PUBLISHED_FID)
    yield Row(
        name=name,
        state="ok" if off <= 0.05 else "miss",
        value=found.value,
        target=f"{PUBLISHED_FID} +- 0.05",
        published=published,
        note=found.protocol.stamp,
    )
