"""Losses with a double backward pass, traced with their gradients."""

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from gan_core.nn import collectives
from gan_core.nn.penalties import zero_centred_penalty
from gan_core.nn.traced import TracedLoss


class Counted(nn.Module):
    """Keeps a mean of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(maps.mean(), 0.5)
        return maps * (1 + self.mean.clone())


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), Counted(), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(144, 1))


def r1(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    return zero_centred_penalty(network, images), images.mean()


def traced(network: nn.Module, loss: object = r1) -> TracedLoss:
    return TracedLoss("R1", network, loss, backend="eager")


def gradients(network: nn.Module) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    return found


def test_values_gradients_and_buffers_are_those_of_the_loss(network: nn.Module) -> None:
    other, loss = copy.deepcopy(network), traced(network)
    for seed in range(3):
        images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        found, wanted = loss(images), r1(other, images)
        for each in (found, wanted):
            (3 * each[0]).backward()
        torch.testing.assert_close([each.detach() for each in found], [each.detach() for each in wanted])
        assert not found[1].requires_grad
    for name, parameter in network.named_parameters():
        expected = other.get_parameter(name).grad
        assert (parameter.grad is None) == (expected is None), name  # the last bias moves no gradient by the images
        torch.testing.assert_close(parameter.grad, expected)
    torch.testing.assert_close(network[1].mean, other[1].mean)
    assert network[1].mean != 0


def test_inputs_of_another_shape_are_traced_anew(network: nn.Module) -> None:
    network[1] = nn.Identity()
    loss = traced(network)
    for n in (5, 3, 5):
        images = torch.randn(n, 1, 8, 8)
        torch.testing.assert_close(loss(images)[0].detach(), r1(network, images)[0].detach())


def test_a_frozen_parameter_gets_no_gradient(network: nn.Module) -> None:
    network[0].weight.requires_grad_(False)
    traced(network)(torch.randn(5, 1, 8, 8))[0].backward()
    assert network[0].weight.grad is None
    assert network[4].weight.grad is not None


def test_a_loss_that_torch_cannot_trace_runs_as_it_is_and_is_named_once(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    def reads(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        penalty = zero_centred_penalty(network, images)
        return (penalty if penalty > 0 else -penalty,)

    network[1] = nn.Identity()
    loss, images = traced(network, reads), torch.randn(5, 1, 8, 8)
    with caplog.at_level(logging.WARNING, "gan_core"):
        for _ in range(2):
            assert torch.equal(loss(images)[0], reads(network, images)[0])
    assert caplog.text.count("R1 is not compiled, because torch cannot trace it: ") == 1


def test_a_loss_of_a_network_with_batch_norm_runs_as_it_is(
    network: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    network[1] = nn.BatchNorm2d(4)
    traced(network)(torch.randn(5, 1, 8, 8))
    assert "batch norm changes its statistics" in caplog.text
    assert network[1].num_batches_tracked == 1


def test_an_average_over_several_workers_is_not_traced(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The graph would hold this worker's part only."""

    def averaged(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        return (zero_centred_penalty(network, images) + collectives.mean_over_workers(images).sum(),)

    monkeypatch.setattr(collectives, "world_size", lambda: 2)
    monkeypatch.setattr(collectives._Mean, "apply", lambda tensor: tensor)
    traced(network, averaged)(torch.randn(5, 1, 8, 8))
    assert "is not compiled, because torch cannot trace it: it averages over all workers" in caplog.text


def test_a_full_memory_is_not_taken_for_a_loss_that_cannot_be_traced(network: nn.Module) -> None:
    def full(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        traced(network, full)(torch.randn(5, 1, 8, 8))
