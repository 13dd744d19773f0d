"""The loss of an update, summed over its phases."""

from gan_core.families import Batch, Family, Losses, Side


def losses_of(family: Family, side: Side, batch: Batch, step: int = 0) -> Losses:
    """The update of a side: the adversarial loss and the penalties that are part of it."""
    update = next(phases for phases in family.updates() if phases[0].name == side)
    losses = [phase.loss(batch, step) for phase in update]
    terms = {name: term for part in losses for name, term in part.scalars.items()}
    return Losses(sum((part.total for part in losses[1:]), losses[0].total), terms)
