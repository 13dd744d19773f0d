"""What one update minimises, whatever number of phases it is made of."""

from gan_core.families import Batch, Family, Losses


def discriminator_losses(family: Family, batch: Batch) -> Losses:
    """Of the discriminator's update: the game and the penalties that are part of it."""
    losses = [phase.loss(batch, 0) for phase in family.updates()[0]]
    terms = {name: term for part in losses for name, term in part.terms.items()}
    return Losses(sum((part.total for part in losses[1:]), losses[0].total), terms)
