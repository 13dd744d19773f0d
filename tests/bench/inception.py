"""Inception features on the CPU: pictures a second against the TorchScript network, and against what the machine can do."""

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from gan_core.download.weights import inception_file
from gan_core.metrics.frechet import Moments, frechet_distance
from gan_core.metrics.inception import Conv, Extractor, load_inception
from gan_core.precision import has_bf16
from tests.bench import Row

BATCH = 16
ROUNDS = 5
SIZE = 2048  # of the square matrices whose product is the machine's ceiling


def rows() -> list[Row]:
    """fp32 and bf16 against the TorchScript network on the same input, interleaved; the best round of each counts."""
    extractor = load_inception()
    reference = torch.jit.load(str(inception_file()))
    inputs = extractor.prepare(_pictures(BATCH)).contiguous()
    matrix = torch.randn(SIZE, SIZE)
    instructions = has_bf16(torch.device("cpu"))
    contestants: dict[str, Callable[[], torch.Tensor]] = {
        "matmul": lambda: matrix @ matrix,
        "torchscript": lambda: reference(inputs),
        "fp32": lambda: extractor.extract(inputs),
    }
    if instructions:
        low = load_inception(precision="bf16")
        contestants["bf16"] = lambda: low.extract(inputs)
    seconds, outputs = _race(contestants)
    speed = {name: BATCH / taken for name, taken in seconds.items()}
    error = float(
        (
            (outputs["fp32"] - outputs["torchscript"]).abs()
            / outputs["torchscript"].abs().clamp_min(outputs["torchscript"].mean())
        ).max()
    )
    if error > 1e-4:
        raise AssertionError(f"The extractor differs from the TorchScript network by {error:.1e}, more than 1e-4.")
    ceiling = 2 * SIZE**3 / seconds["matmul"]
    share = speed["fp32"] * _operations(extractor) / ceiling
    table = [
        Row(
            name="Inception features, fp32, against TorchScript",
            ratio=speed["fp32"] / speed["torchscript"],
            target=1.15,
            note=f"{speed['fp32']:.1f} against {speed['torchscript']:.1f} img/s, error {error:.0e}, {share:.0%} of this "
            f"machine's matrix-product rate ({ceiling / 1e9:.0f} GFLOP/s)",
        )
    ]
    if instructions:
        note = f"{speed['bf16']:.1f} img/s; moves a FID from {_bf16_difference(extractor, low)}"
        ratio = speed["bf16"] / speed["torchscript"]
        table.append(Row(name="Inception features, bf16, against TorchScript", ratio=ratio, target=2.0, note=note))
    else:
        note = "this CPU has no bf16 instructions: emulated, never chosen here"
        table.append(Row(name="Inception features, bf16, against TorchScript", ratio=None, target=2.0, note=note))
    return table


def _race(contestants: dict[str, Callable[[], torch.Tensor]]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Best seconds and last output of each, in turns, so that a slow moment of the machine hits all alike."""
    best = dict.fromkeys(contestants, float("inf"))
    outputs = {}
    with torch.inference_mode():
        for turn in range(ROUNDS + 2):  # two to warm up: TorchScript specialises itself in its first two calls
            for name, run in contestants.items():
                start = time.perf_counter()
                outputs[name] = run()
                if turn >= 2:
                    best[name] = min(best[name], time.perf_counter() - start)
    return best, outputs


def _operations(extractor: Extractor) -> int:
    """Floating-point operations of the convolutions for one picture."""
    total = 0

    def count(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, Conv)
        total += 2 * output[0].numel() * module.weight[0].numel()

    convolutions = [module for module in extractor.network.modules() if isinstance(module, Conv)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    extractor(_pictures(1))
    for hook in hooks:
        hook.remove()
    return total


def _bf16_difference(exact: Extractor, low: Extractor, count: int = 128) -> str:
    """A FID of two sets of ``count`` pictures in fp32 and in bf16."""
    values = []
    for extractor in (exact, low):
        sets = [Moments(extractor.features) for _ in range(2)]
        for moments, pictures in zip(sets, _pictures(2 * count).split(count), strict=True):
            moments.update(extractor(pictures))
        values.append(frechet_distance(*sets))
    return f"{values[0]:.3f} to {values[1]:.3f}"


def _pictures(count: int) -> torch.Tensor:
    """Crops of two photographs, uint8 (count, 3, 128, 128); the second half from the second photograph."""
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    crops = []
    for index in range(count):
        photograph = photographs[2 * index // count]
        y, x = (int(rng.integers(0, side - 128)) for side in photograph.shape[:2])
        crops.append(photograph[y : y + 128, x : x + 128])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
