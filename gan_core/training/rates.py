"""Learning rates and moments of each step."""

from collections.abc import Mapping, Sequence

from gan_core.families import Phase
from gan_core.schedule import cosine
from gan_core.training.adam import Adam
from gan_core.training.config import TrainConfig


class Rates:
    """Sets them: what the settings say, their schedules, rollbacks, and the share that lazy penalties leave."""

    def __init__(
        self, config: TrainConfig, optimisers: Mapping[str, Adam], updates: Sequence[tuple[Phase, ...]]
    ) -> None:
        """``optimisers`` go by side; each of ``updates`` is made of one or more phases (:meth:`Family.updates`)."""
        self._config, self._optimisers = config, optimisers
        self._laziness = {side: lazy_share(side, updates) for side in optimisers}

    def set(self, step: int, *, progress: float, rollbacks: int) -> None:
        """Set those of ``step``, at ``progress`` through the burn-in (0 to 1), after so many rollbacks."""
        config = self._config
        falling = config.steps * (1 - config.decay_from)
        left = min((config.steps - step) / falling, 1.0) if falling else 1.0
        beta2 = config.beta2 if config.final_beta2 is None else cosine(config.beta2, config.final_beta2, progress)
        for side, optimiser in self._optimisers.items():
            share = self._laziness[side]
            rate = config.learning_rates[side] * cosine(1.0, config.final_lr_share, progress)
            optimiser.lr = rate * left * 0.5**rollbacks * share
            optimiser.betas = (config.beta1**share, beta2**share)


def lazy_share(side: str, updates: Sequence[tuple[Phase, ...]]) -> float:
    """One update's share of a step's for a side with lazy penalties: k / (k + 1) with one every k steps, which adds an update.

    So the moments forget as much in a step as without them (Karras et al. 2020, appendix B).
    """
    added = sum(1 / first.every for first, *_ in updates if first.side == side and first.every > 1)
    return 1 / (1 + added)
