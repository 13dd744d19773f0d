"""Adam gives the results of torch's plain loop for every memory layout."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from gan_core.training.adam import Adam

LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(8, 4, 3, 3), (6, 1, 4, 4), (1, 6, 4, 4), (5, 7, 1, 1), (3, 5), (4,)]


def laid(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    return tensor.clone(memory_format=layout) if tensor.dim() == 4 else tensor.clone()


@pytest.mark.parametrize("of_gradient", LAYOUTS, ids=str)
@pytest.mark.parametrize("of_parameter", LAYOUTS, ids=str)
def test_steps_equal_those_of_torchs_plain_loop(
    of_parameter: torch.memory_format, of_gradient: torch.memory_format
) -> None:
    ends = []
    for make in (Adam, lambda parameters, lr: torch.optim.Adam(parameters, lr, (0.5, 0.9), foreach=False)):
        random = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(laid(torch.randn(shape, generator=random), of_parameter)) for shape in SHAPES]
        adam = make(parameters, 1e-2)
        if isinstance(adam, Adam):
            adam.betas = (0.5, 0.9)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = laid(torch.randn(parameter.shape, generator=random), of_gradient)
            adam.step()
        if isinstance(adam, Adam):
            moments = [adam.moments()[f"{index}.exp_avg"] for index in range(len(parameters))]
        else:
            moments = [adam.state[parameter]["exp_avg"] for parameter in parameters]
        assert [m.shape for m in moments] == [p.shape for p in parameters]
        ends.append([p.detach() for p in parameters] + moments)
    torch.testing.assert_close(*ends)


def test_a_gradient_in_channels_last_is_not_copied() -> None:
    weight = nn.Parameter(laid(torch.randn(8, 4, 3, 3), torch.channels_last))
    weight.grad = torch.ones_like(weight)
    adam = Adam([weight], 1e-3)
    adam.step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        adam.step()
    assert "aten::clone" not in {event.name for event in seen.events()}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_loaded_moments_take_the_memory_layout_of_the_parameters(layout: torch.memory_format) -> None:
    random = torch.Generator().manual_seed(0)
    values, gradient = (torch.randn(8, 4, 3, 3, generator=random) for _ in range(2))

    def stepped(adam: Adam, weight: nn.Parameter) -> Tensor:
        weight.grad = laid(gradient, layout)
        adam.step()
        return weight.detach().clone()

    weight = nn.Parameter(laid(values, layout))
    adam = Adam([weight], 1e-2)
    halfway = stepped(adam, weight)
    saved = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in adam.moments().items()}
    assert set(saved) == {"0.step", "0.exp_avg", "0.exp_avg_sq"}
    again = nn.Parameter(laid(halfway, layout))
    resumed = Adam([again], 1e-2)
    resumed.load_moments(saved)
    assert resumed.moments()["0.exp_avg"].stride() == again.stride()
    torch.testing.assert_close(stepped(resumed, again), stepped(adam, weight), rtol=0, atol=0)


def test_a_parameter_without_a_gradient_is_unchanged_and_has_no_moments() -> None:
    learns, stays = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    adam = Adam([stays, learns], 0.1)
    adam.step()
    assert adam.moments() == {}
    learns.grad = torch.ones(3)
    adam.step()
    assert set(adam.moments()) == {"1.step", "1.exp_avg", "1.exp_avg_sq"}
    assert torch.equal(stays, torch.ones(3))
    torch.testing.assert_close(learns.detach(), torch.full((3,), 0.9))
    adam.zero_grad()
    assert learns.grad is None


def test_importing_adam_does_not_import_torchs_compiler() -> None:
    script = """
        import sys, torch
        from gan_core.training.adam import Adam
        weight = torch.nn.Parameter(torch.ones(3))
        adam = Adam([weight], 0.1)
        weight.sum().backward()
        adam.step()
        adam.zero_grad()
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
