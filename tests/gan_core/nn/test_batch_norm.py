"""Batch norm over two workers computes what one worker with the whole batch computes."""

import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from gan_core.nn.batch_norm import BatchNorm2d, standing_statistics
from gan_core.nn.penalties import zero_centred_penalty


def images(n: int = 8, seed: int = 0) -> Tensor:
    """Pictures (n, 2, 4, 4) that are not centred, each differently lit."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 4, 4, generator=generator) * 2 + torch.randn(n, 2, 1, 1, generator=generator) + 1


class Critic(nn.Module):
    """A convolution, batch norm, and a smooth nonlinearity."""

    def __init__(self, norm: type[nn.BatchNorm2d] = BatchNorm2d, momentum: float | None = 0.1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm, self.end = nn.Conv2d(2, 3, 3), norm(3, momentum=momentum), nn.Linear(12, 1)
        nn.init.normal_(self.norm.weight, 1.0, 0.3)
        nn.init.normal_(self.norm.bias, 0.0, 0.3)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.end(torch.tanh(self.norm(self.conv(pictures))).flatten(1)).squeeze(1)


def learn(critic: Critic, pictures: Tensor) -> dict[str, Tensor]:
    """Everything that a step of ``critic`` with a gradient penalty computes from ``pictures``, detached."""
    pictures = pictures.clone().requires_grad_(True)
    judged = critic(pictures)
    (by_pixel,) = torch.autograd.grad(judged.square().sum(), pictures)
    critic.zero_grad()
    critic(pictures).square().mean().backward()
    first = {f"gradient.{name}": p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    penalty = zero_centred_penalty(critic, pictures)
    penalty.backward()
    second = {f"second.{name}": p.grad.clone() for name, p in critic.named_parameters() if p.grad is not None}
    means = {**first, **second, "penalty": penalty.detach()}
    return {"judged": judged.detach(), "by_pixel": by_pixel, **means, **copy.deepcopy(critic.norm.state_dict())}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_worker_computes_what_torchs_batch_norm_computes(momentum: float | None) -> None:
    ours, theirs = Critic(BatchNorm2d, momentum), Critic(nn.BatchNorm2d, momentum)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    expected = learn(theirs, images())
    for name, tensor in learn(ours, images()).items():
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(ours.eval()(images(seed=1)), theirs.eval()(images(seed=1)))


def _standing(net: nn.Module) -> Tensor:
    """The running statistics of a generator after they were recomputed."""
    standing_statistics({"generator": net}, lambda first, n: net(images(n, seed=first)), batches=3, size=8)
    return torch.cat([net.norm.running_mean, net.norm.running_var])


def _worker(rank: int, folder: str) -> None:
    """Main function of each of two processes, with its half of the pictures."""
    torch.set_num_threads(1)
    home = Path(folder)
    meet = f"file://{home / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timedelta(seconds=30))
    found = {}
    for momentum in (0.1, None):
        critic = Critic(momentum=momentum)
        found[str(momentum)] = learn(critic, images()[4 * rank : 4 * rank + 4])
        found[f"{momentum} eval"] = {"judged": critic.eval()(images()[4 * rank : 4 * rank + 4]).detach()}
    if rank == 0:  # alone: a word to the other worker would wait for an answer that does not come
        found["standing"] = {"statistics": _standing(Critic())}
    torch.save(found, home / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """The results of two workers."""
    home = tmp_path_factory.mktemp("pair")
    mp.spawn(_worker, (str(home),), nprocs=2)
    return [torch.load(home / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_two_workers_compute_what_one_with_the_whole_batch_computes(
    pair: list[dict[str, dict[str, Tensor]]], momentum: float | None
) -> None:
    """Outputs, running statistics, gradients by pixels and by weights, and the second derivatives of R1."""
    critic = Critic(nn.BatchNorm2d, momentum)
    whole = learn(critic, images())
    whole_eval = critic.eval()(images()).detach()
    halves = [found[str(momentum)] for found in pair]
    assert any(name.startswith("second.") for name in whole)
    assert whole.keys() == halves[0].keys() == halves[1].keys()
    for name, expected in whole.items():
        if name in ("judged", "by_pixel"):  # a row an image
            found = torch.cat([half[name] for half in halves])
        elif name.startswith(("gradient.", "second.", "penalty")):  # workers average these
            found = (halves[0][name] + halves[1][name]) / 2
        else:
            assert torch.equal(halves[0][name], halves[1][name])
            found = halves[0][name]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    found = torch.cat([half[f"{momentum} eval"]["judged"] for half in pair])
    torch.testing.assert_close(found, whole_eval, rtol=1e-4, atol=2e-5)


def test_local_statistics_would_give_other_results() -> None:
    """Otherwise the tests above would prove nothing."""
    whole, half = learn(Critic(), images()), learn(Critic(), images()[:4])
    assert (whole["judged"][:4] - half["judged"]).abs().max() > 1e-2


def test_standing_statistics_do_not_communicate(pair: list[dict[str, dict[str, Tensor]]]) -> None:
    torch.testing.assert_close(pair[0]["standing"]["statistics"], _standing(Critic()), rtol=0, atol=1e-6)


def test_standing_statistics_are_a_plain_mean_over_batches() -> None:
    critic, asked = Critic(momentum=0.1), []
    learn(critic, images(seed=9) * 50)  # what was tracked before is forgotten

    def sample(first: int, n: int) -> Tensor:
        asked.append((first, n))
        return critic(images(n, seed=first))

    standing_statistics({"generator": critic}, sample, batches=3, size=8)
    assert asked == [(0, 8), (8, 8), (16, 8)]
    with torch.no_grad():
        inner = [critic.conv(images(8, seed=first)) for first in (0, 8, 16)]
    mean = torch.stack([x.mean(dim=(0, 2, 3)) for x in inner]).mean(dim=0)
    variance = torch.stack([x.var(dim=(0, 2, 3), unbiased=True) for x in inner]).mean(dim=0)
    torch.testing.assert_close(critic.norm.running_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(critic.norm.running_var, variance, rtol=1e-5, atol=1e-6)
    assert critic.norm.momentum == 0.1
    assert not critic.norm.local
    assert not critic.training
    assert not critic.norm.training


def test_standing_statistics_leave_networks_without_batch_norm_alone() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1))
    before = copy.deepcopy(network.state_dict())

    def sample(first: int, n: int) -> None:
        raise AssertionError("nothing to measure")

    standing_statistics({"generator": network}, sample)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
