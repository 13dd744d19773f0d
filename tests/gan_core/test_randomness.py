"""Random numbers are functions of their key: the same in a resumed run, and divided among workers."""

import pytest
import torch

from gan_core.randomness import WorkerSlice, derive_seed, normal, sampling_uniform, seed_global, uniform

CPU = torch.device("cpu")


def test_derived_seeds_differ_and_stay_the_same() -> None:
    seeds = {derive_seed(*parts) for parts in [(1, 2), (12,), (2, 1), ("a", 1), ("a1",), (1, 2, "latents")]}
    assert len(seeds) == 6
    assert derive_seed(1, 2) == derive_seed(1, 2)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("draw", [normal, uniform])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_rows_of_all_workers_are_the_draw_of_one_worker(draw, world: int) -> None:
    whole = draw((8, 3), WorkerSlice(), CPU, 7, "latents")
    parts = [draw((8 // world, 3), WorkerSlice(rank, world), CPU, 7, "latents") for rank in range(world)]
    assert torch.equal(torch.cat(parts), whole)


def test_another_key_draws_other_numbers() -> None:
    assert not torch.equal(normal((4,), WorkerSlice(), CPU, 1, "a"), normal((4,), WorkerSlice(), CPU, 1, "b"))


def test_draws_have_their_distributions() -> None:
    u, n = uniform((100_000,), WorkerSlice(), CPU, 0), normal((100_000,), WorkerSlice(), CPU, 0)
    assert 0 <= u.min() < 0.001 < 0.999 < u.max() < 1
    assert n.mean().item() == pytest.approx(0, abs=0.02)
    assert n.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("first", "count"), [(0, 1), (5, 20), (250, 12), (255, 1), (256, 300), (300, 700)])
def test_a_row_depends_only_on_the_seed_and_its_index(first: int, count: int) -> None:
    table = sampling_uniform(0, 1100, 3, seed=9)
    assert torch.equal(sampling_uniform(first, count, 3, seed=9), table[first : first + count])


def test_rows_and_seeds_differ_and_stay_inside_the_open_interval() -> None:
    table = sampling_uniform(0, 600, 4, seed=1)
    assert len(torch.unique(table, dim=0)) == 600
    assert not torch.equal(table, sampling_uniform(0, 600, 4, seed=2))
    assert table.min() > 0
    assert table.max() < 1


def test_torchs_default_generators_are_functions_of_seed_step_and_rank() -> None:
    def draw(*key: int) -> float:
        seed_global(*key)
        return torch.rand(()).item()

    assert draw(0, 1, 0) == draw(0, 1, 0)
    assert len({draw(0, 1, 0), draw(0, 2, 0), draw(1, 1, 0), draw(0, 1, 1)}) == 4
