"""Every penalty of every family: part of its side's update, or lazy, with Adam slowed down."""

import pytest
import torch

from gan_core.families import Family, Phase
from gan_core.training.rates import lazy_regularisation_ratio
from tests.gan_core.families import conftest, translations
from tests.gan_core.families.updates import losses_of

PENALTIES = [
    ("biggan", "gp", {"loss": "wasserstein", "gradient_penalty": 10.0}, "gradient_penalty_every"),
    ("biggan", "consistency", {"consistency": 10.0}, "consistency_every"),
    ("biggan", "orthogonal", {"orthogonal": 0.1}, "orthogonal_every"),
    ("r3gan", "r1", {}, "penalty_every"),
    ("r3gan", "r2", {}, "penalty_every"),
    ("stylegan2", "r1", {}, "r1_every"),
    ("stylegan2", "path_length", {}, "path_every"),
    ("stargan", "gp", {}, "gradient_penalty_every"),
    ("stargan2", "r1", {}, "r1_every"),
]
"""Family, penalty, settings that turn it on, and the setting of its interval."""

every_penalty = pytest.mark.parametrize(
    ("family", "name", "settings", "interval"), PENALTIES, ids=[f"{family} {name}" for family, name, *_ in PENALTIES]
)


def made(family: str, **settings: object) -> tuple[Family, object]:
    helper = conftest if family in conftest.SMALL else translations
    found = helper.small(family, **settings)
    return found, helper.some_batch(found)


def the_phase(family: Family, name: str) -> Phase:
    return next(phase for phase in family.phases() if phase.name == name)


def test_every_penalty_is_tested() -> None:
    for family, settings in {"biggan": {"orthogonal": 1.0, "consistency": 1.0, "gradient_penalty": 1.0}}.items():
        assert {phase.name for phase in made(family, **settings)[0].penalties()} == {
            name for of, name, *_ in PENALTIES if of == family
        }
    for family in [*conftest.SMALL, *translations.SMALL]:
        assert {phase.name for phase in made(family)[0].penalties()} <= {
            name for of, name, *_ in PENALTIES if of == family
        }


@every_penalty
def test_with_interval_1_it_is_part_of_its_sides_update(family: str, name: str, settings: dict, interval: str) -> None:
    game, batch = made(family, **settings, **{interval: 1})
    side = the_phase(game, name).side
    assert f"penalty/{name}" in losses_of(game, side, batch).scalars
    assert (
        lazy_regularisation_ratio(
            side, [update for update in game.updates() if name in {phase.name for phase in update}]
        )
        == 1.0
    )


@every_penalty
def test_with_interval_k_it_weighs_k_times_in_an_update_of_its_own(
    family: str, name: str, settings: dict, interval: str
) -> None:
    """Karras et al. 2020, appendix B."""
    totals = []
    for every in (1, 3):
        game, batch = made(family, **settings, **{interval: every})
        phase = the_phase(game, name)
        assert phase.every == every
        totals.append(phase.loss(batch, 0).total.item())
    (update,) = [update for update in game.updates() if name in {part.name for part in update}]
    assert update[0].name != phase.side
    assert {part.every for part in update} == {3}
    assert totals[1] == pytest.approx(3 * totals[0], rel=1e-5)
    assert lazy_regularisation_ratio(phase.side, [update]) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("family", "name", "settings", "interval", "precision"),
    [
        pytest.param(*case, precision, id=f"{case[0]} {case[1]} in {precision}")
        for case in PENALTIES
        if case[1] not in ("consistency", "orthogonal")  # these have no double backward pass
        for precision in (["fp32", "bf16"] if case[:2] in (("biggan", "gp"), ("r3gan", "r1")) else ["fp32"])
    ],
)
def test_compiled_with_its_gradients_it_is_the_same(
    family: str, name: str, settings: dict, interval: str, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a compiler, only traced: what is traced is what a real one compiles."""
    found = []
    for compiled in (False, True):
        game, batch = made(family, **settings, **{interval: 2})
        if compiled:
            game.compile(backend="eager", dynamic=False)
        phase = the_phase(game, name)
        for step in (0, 2):  # traced, and called again
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = phase.loss(batch, step)
            (loss.total / 2).backward()
        network = game.networks[phase.side]
        gradients = {which: p.grad for which, p in network.named_parameters() if p.grad is not None}
        found.append(({"loss": loss.total.detach(), **gradients}, {**dict(network.named_buffers()), **game.buffers}))
    assert "is not compiled" not in caplog.text
    (plain, plain_state), (traced, traced_state) = found
    assert traced.keys() == plain.keys()
    for which, value in traced.items():
        assert (value - plain[which]).norm() <= (1e-5 if precision == "fp32" else 2e-2) * plain[which].norm(), which
    for which, value in traced_state.items():
        torch.testing.assert_close(value, plain_state[which])


def test_lazy_penalties_of_equal_intervals_share_an_update_and_slow_adam_down_once() -> None:
    game, _ = made("r3gan", penalty_every=4)
    assert [[phase.name for phase in update] for update in game.updates()] == [
        ["discriminator"],
        ["r1", "r2"],
        ["generator"],
    ]
    assert lazy_regularisation_ratio("discriminator", game.updates()) == pytest.approx(4 / 5)
    assert lazy_regularisation_ratio("generator", game.updates()) == 1.0


def test_lazy_penalties_of_several_intervals_slow_adam_down_by_all_the_updates_that_they_add() -> None:
    settings = {"loss": "wasserstein", "gradient_penalty": 1.0, "gradient_penalty_every": 2, "consistency": 1.0}
    game, _ = made("biggan", **settings, consistency_every=4)
    assert lazy_regularisation_ratio("discriminator", game.updates()) == pytest.approx(1 / (1 + 1 / 2 + 1 / 4))
