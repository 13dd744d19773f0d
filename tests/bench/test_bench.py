"""What the benchmarks measure is what they say: whole cycles, torch's own layers, one step and no pictures."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan_core.nn import convolution
from gan_core.training.config import TrainConfig
from tests.bench import families, stage
from tests.bench.pairs import median_interval
from tests.bench.straightforward import NoiseLoop
from tests.bench.trainers import auto_trainer, cycle_of, made_up_data, run_steps
from tests.bench.translation import Straightforward
from tests.gpu.tiny import SIDE, TINY

CPU = torch.device("cpu")


def tiny(name: str, place: Path, **settings: object):
    data = made_up_data(name, place, SIDE, 16)
    return auto_trainer(name, data, place / "run", CPU, batch=4, accumulate=1, model=TINY[name], **settings)


def test_a_block_has_whole_cycles_of_lazy_penalties(tmp_path: Path) -> None:
    lazy = tiny("stylegan2", tmp_path / "lazy")
    assert cycle_of(lazy) == 16
    assert families.block_steps(lazy) == 16
    every = tiny("r3gan", tmp_path / "every")
    assert (cycle_of(every), families.block_steps(every)) == (1, 2)


def test_steps_that_are_measured_draw_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny("dcgan", tmp_path)
    monkeypatch.setattr(trainer, "_draw_grid", lambda: pytest.fail("a grid was drawn"))
    run_steps(trainer, 2)


def test_the_straightforward_loop_has_torchs_second_gradients_in_every_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = NoiseLoop(
        tiny("stylegan2", tmp_path, precision="fp32")
    )  # with R1 and path lengths, both due in the first step
    monkeypatch.setattr(convolution._Convolution, "apply", lambda *_: pytest.fail("Gantry's own convolution"))
    loop.run(1)


def test_the_straightforward_loop_of_translation_has_torchs_memory_layout(tmp_path: Path) -> None:
    loop = Straightforward(tiny("stargan", tmp_path))
    layouts: list[bool] = []
    for network in loop.networks.values():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda _, given, __: layouts.append(given[0].is_contiguous()))
    loop.run(1)
    assert layouts
    assert all(layouts)


def test_the_bare_loop_measures_no_fid_and_has_the_threads_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[TrainConfig] = []

    def trainer(name: str, model: object, data: object, config: TrainConfig, *_: object, **__: object):
        configs.append(config)
        return SimpleNamespace(run=lambda: None)

    threads: list[int] = []
    monkeypatch.setattr(stage, "Trainer", trainer)
    monkeypatch.setattr(stage, "PreparedDataset", lambda place: None)
    monkeypatch.setattr(stage, "usable_cpus", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    stage.bare(tmp_path)
    assert (configs[0].fid_every, threads) == (0, [3])


@pytest.mark.parametrize(("count", "ends"), [(5, (0, 4)), (6, (0, 5)), (8, (0, 7)), (12, (2, 9)), (20, (5, 14))])
def test_the_interval_of_a_median_is_that_of_the_sign_test(count: int, ends: tuple[int, int]) -> None:
    assert median_interval(range(count)) == ends
