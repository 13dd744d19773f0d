"""Learning rates and betas of Adam at each step."""

from collections.abc import Mapping, Sequence

from gan_core.families import Phase
from gan_core.schedule import cosine
from gan_core.training.adam import Adam
from gan_core.training.config import TrainConfig


class LearningRateSchedule:
    """Sets learning rates and betas from the settings, their schedules, rollbacks and lazy regularisation."""

    def __init__(
        self, config: TrainConfig, optimisers: Mapping[str, Adam], updates: Sequence[tuple[Phase, ...]]
    ) -> None:
        """``optimisers``: by side. ``updates``: phases of each update, from :meth:`Family.updates`."""
        self._config, self._optimisers = config, optimisers
        self._ratios = {side: lazy_regularisation_ratio(side, updates) for side in optimisers}

    def set(self, step: int, *, progress: float, rollbacks: int, warmth: float = 1.0) -> None:
        """Set the rates of ``step``.

        Args:
            step: number of the step.
            progress: share of the burn-in that is done, 0 to 1.
            rollbacks: each one halves the rates.
            warmth: share of the warm-up that is done, 0 to 1.
        """
        config = self._config
        falling = config.steps * (1 - config.decay_from)
        left = min((config.steps - step) / falling, 1.0) if falling else 1.0
        beta2 = config.beta2 if config.final_beta2 is None else cosine(config.beta2, config.final_beta2, progress)
        for side, optimiser in self._optimisers.items():
            share = self._ratios[side]
            rate = config.learning_rates[side] * cosine(1.0, config.final_lr_share, progress)
            optimiser.lr = rate * left * 0.5**rollbacks * share * warmth
            optimiser.betas = (config.beta1**share, beta2**share)


def lazy_regularisation_ratio(side: str, updates: Sequence[tuple[Phase, ...]]) -> float:
    """Factor for learning rate and betas (as exponent) under lazy regularisation: k / (k + 1) for a penalty every k steps.

    It compensates for the additional updates of the penalty (Karras et al. 2020, StyleGAN2, appendix B).
    """
    added = sum(1 / first.every for first, *_ in updates if first.side == side and first.every > 1)
    return 1 / (1 + added)
