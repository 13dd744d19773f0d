"""What one update minimises, whatever number of phases it is made of."""

from gan_core.families import Batch, Family, Losses, Side


def losses_of(family: Family, side: Side, batch: Batch, step: int = 0) -> Losses:
    """Of a side's update: the game and the penalties that are part of it."""
    update = next(phases for phases in family.updates() if phases[0].name == side)
    losses = [phase.loss(batch, step) for phase in update]
    terms = {name: term for part in losses for name, term in part.scalars.items()}
    return Losses(sum((part.total for part in losses[1:]), losses[0].total), terms)
