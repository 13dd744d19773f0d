"""What all families share that turn noise, and a class where they are conditional, into an image."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.data import DatasetInfo
from gan_core.errors import SettingsError
from gan_core.families.base import DiversityPair, Family, ImageShape, Losses, Phase
from gan_core.nn.batch_norm import standing_statistics
from gan_core.nn.losses import ADVERSARIAL_LOSSES
from gan_core.nn.penalties import gradient_penalty, zero_centred_penalty

_SHARES = {"r1": 0.5, "r2": 0.5, "gp": 1.0}
"""What a penalty's paper multiplies its weight with."""
_GRID = 64
"""Samples in a grid."""


class NoiseFamily(Family):
    """One generator, one discriminator, and an adversarial game between them.

    A subclass builds ``networks`` (``generator`` and ``discriminator``) and says how the generator is called
    (:meth:`generate`) where that is not ``generator(latents)`` or, when conditional, ``generator(latents, labels)``. Its
    config has ``latent``, ``loss`` (a name in ADVERSARIAL_LOSSES) and what the class attributes below ask for.
    """

    does = "make images from noise"
    prior: str = "normal"
    """Distribution of z: normal, or uniform in [-1, 1]."""
    joint: ClassVar[bool] = False
    """Whether real and generated images may be judged in one pass: not where the discriminator has batch statistics."""

    def __init__(self, config: Any, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        """``class_shares``: see :attr:`class_shares`. Raises SettingsError where classes are needed and there are none."""
        super().__init__(config, shape)
        self.class_shares = tuple(class_shares)
        """How often each class is among the training pictures, for samples without a label of a class-conditional family;
        empty: equally often."""
        if self.conditional and not shape.classes:
            raise SettingsError(
                f"model.family: {self.name} needs labels, and this dataset has none. Add the data again with a folder for "
                "each class or a label column, or choose a family that takes none, such as dcgan."
            )

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`; the domains of unpaired data are drawn apart, and are no classes."""
        super().check_data(info, config)
        if info.kind == "unpaired" and cls.is_conditional(config):
            raise SettingsError(
                f"model.family: {cls.name} is class-conditional, and unpaired data has no classes. Set ingest.kind to "
                "labelled, or choose a family without classes, such as dcgan."
            )

    # -- what the networks are called with -----------------------------------------------------------------------------

    def generate(
        self, generator: Callable[..., Tensor], latents: Tensor, labels: Tensor | None, batch: Batch
    ) -> Tensor:
        """Images for ``latents`` in training."""
        return generator(latents, labels) if self.conditional else generator(latents)

    def generate_sample(
        self, generator: nn.Module, latents: Tensor, labels: Tensor | None, truncation: float | None
    ) -> Tensor:
        """Images for ``latents`` outside training; the prior has been truncated already."""
        return generator(latents, labels) if self.conditional else generator(latents)

    def judge(self, discriminator: Callable[..., Tensor], images: Tensor, labels: Tensor | None) -> Tensor:
        """What ``discriminator`` gives for images that have been augmented, float32 (N,)."""
        return (discriminator(images, labels) if self.conditional else discriminator(images)).float()

    # -- the game ------------------------------------------------------------------------------------------------------

    def penalty(self, name: Literal["r1", "r2", "gp"], weight: Callable[[Batch], float], every: int) -> Phase:
        """A penalty on the discriminator's gradient every so many steps; of R1's and R2's weight, gamma, half is taken."""

        def loss(batch: Batch, step: int) -> Losses:
            penalty = self._penalty(name, batch, batch.real if name == "r1" else self.detached_fakes(batch))
            return Losses(penalty * (weight(batch) * _SHARES[name]), {f"penalty/{name}": penalty.detach()})

        return Phase(name=name, side="discriminator", every=every, loss=loss)

    def latents(self, batch: Batch, draw: str = "latents") -> Tensor:
        """z for ``batch``, (N, latent)."""
        shape = (len(batch.real), self.config.latent)
        if self.prior == "uniform":
            return randomness.uniform(shape, batch.part, batch.real.device, *batch.key, draw) * 2 - 1
        return randomness.normal(shape, batch.part, batch.real.device, *batch.key, draw)

    def fakes(self, batch: Batch) -> Tensor:
        """Generated images for ``batch``, of the classes of its real images."""
        return batch.cached(
            "fakes", lambda: self.generate(self.network("generator"), self.latents(batch), batch.labels, batch)
        )

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; class by class where the family is class-conditional."""
        classes = batch.labels if self.conditional else None
        return (DiversityPair(fakes=self.fakes(batch), reals=batch.real, fake_labels=classes, real_labels=classes),)

    def judge_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the discriminator gives for real and for generated images."""
        discriminator = self.network("discriminator")
        if not self.joint:
            return self.judge(discriminator, real, labels), self.judge(discriminator, fake, labels)
        twice = None if labels is None else torch.cat([labels, labels])
        judged = self.judge(discriminator, torch.cat([real, fake.to(real.dtype)]), twice)
        first, second = judged.chunk(2)
        return first, second

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """The discriminator's half of the game."""
        real = batch.augment(batch.real, "real")
        fake = batch.augment(self.detached_fakes(batch), "fake")
        judged_real, judged_fake = self.judge_both(real, fake, batch.labels)
        loss = ADVERSARIAL_LOSSES[self.config.loss]
        total = loss.discriminator(judged_real, judged_fake)
        # A game over pairs knows no zero: there, right is who judges the real partner more real.
        margin = (judged_real - judged_fake).detach() if loss.paired_generator else None
        terms = {
            "loss/discriminator": total.detach(),
            "health/real_right": ((judged_real.detach() if margin is None else margin) > 0).float().mean(),
            "health/fake_right": ((judged_fake.detach() if margin is None else -margin) < 0).float().mean(),
        }
        return Losses(total, terms)

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """The generator's half of the game."""
        loss = ADVERSARIAL_LOSSES[self.config.loss]
        fake = batch.augment(self.fakes(batch), "fake again")
        if loss.generator:
            total = loss.generator(self.judge(self.network("discriminator"), fake, batch.labels))
        else:
            assert loss.paired_generator is not None
            with torch.no_grad():
                real = batch.augment(batch.real, "real again")
                judged_real = self.judge(self.network("discriminator"), real, batch.labels)
            total = loss.paired_generator(self.judge(self.network("discriminator"), fake, batch.labels), judged_real)
        return Losses(total, {"loss/generator": total.detach()})

    def _penalty(self, name: str, batch: Batch, fake: Tensor) -> Tensor:
        """R1, R2 or GP; the gradient is taken where the discriminator looks, at augmented images."""
        with torch.no_grad():
            images = batch.augment(fake.float() if name == "r2" else batch.real, name)
            other = batch.augment(fake.float(), "gp fake") if name == "gp" else images

        def judge(x: Tensor) -> Tensor:
            return self.judge(self.networks["discriminator"], x, batch.labels)

        if name == "gp":
            mix = randomness.uniform((len(fake), 1, 1, 1), batch.part, fake.device, *batch.key, "gp mix")
            return gradient_penalty(judge, images, other, mix)
        return zero_centred_penalty(judge, images)

    # -- use -----------------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        seed: int,
        label: int | None = None,
        truncation: float | None = None,
        *,
        first: int = 0,
        networks: Mapping[str, nn.Module] | None = None,
    ) -> Tensor:
        """Noise to image: pictures ``first`` to ``first + n`` of ``seed``, float in [-1, 1], (n, C, H, W).

        Args:
            n: how many.
            seed: names the sequence of pictures; picture i of a seed is the same whatever the batch.
            label: class index, where the family is class-conditional; None draws classes as often as training had them.
            truncation: bound on each latent coordinate, or what the family says; None for the full prior.
            first: index of the first picture in the seed's sequence.
            networks: use these generators (an EMA copy) in place of the family's own.

        Raises:
            SettingsError: a label or a truncation that the family does not take.
        """
        generator = (networks or self.networks)["generator"]
        device = next(generator.parameters()).device
        latents, labels = self.draw(n, seed, label, truncation, first=first, device=device)
        return self.generate_sample(generator, latents, labels, truncation)

    def draw(
        self,
        n: int,
        seed: int,
        label: int | None = None,
        truncation: float | None = None,
        *,
        first: int = 0,
        device: torch.device | str = "cpu",
    ) -> tuple[Tensor, Tensor | None]:
        """What pictures ``first`` to ``first + n`` of ``seed`` are made from: z (n, latent), and classes (n,) or None.

        Raises:
            SettingsError: a label or a truncation that the family does not take.
        """
        if label is not None and not self.conditional:
            raise SettingsError(f"label: {self.name} is unconditional and takes no label. Leave it out.")
        if label is not None and not 0 <= label < self.shape.classes:
            raise SettingsError(f"label: there is no class {label}; the classes are 0 to {self.shape.classes - 1}.")
        if truncation is not None and not truncation > 0:
            raise SettingsError(f"truncation: must be above 0, got {truncation}.")
        # One more column than z has: it draws the class, so that z is the same with a label and without.
        table = randomness.sampling_uniform(first, n, self.config.latent + int(self.conditional), seed)
        latents = self.sampling_latents(table[:, : self.config.latent], truncation).to(device)
        labels = None
        if self.conditional:
            drawn = classes_from_uniform(
                table[:, -1], self.class_shares or (1 / self.shape.classes,) * self.shape.classes
            )
            labels = (drawn if label is None else torch.full((n,), label)).to(device)
        return latents, labels

    def walk(
        self, n: int, seed: int, label: int | None = None, truncation: float | None = None, *, frames: int
    ) -> Iterator[Tensor]:
        """Images on the way through ``n`` pictures of ``seed`` and back to the first, ``frames`` at a time.

        Yields float (frames, C, H, W) in [-1, 1]. All are of one class: ``label``, or the first picture's.
        """
        generator = self.networks["generator"]
        latents, labels = self.draw(n, seed, label, truncation, device=next(generator.parameters()).device)
        share = torch.linspace(0, 1, frames + 1, device=latents.device)[:-1, None]
        for start, end in zip(latents, latents.roll(-1, dims=0), strict=True):
            between = torch.lerp(start[None], end[None], share)
            if self.prior == "normal":
                # Half-way between two normal draws their mean is too short: keep the length that the prior has.
                length = torch.lerp(start.norm().expand(frames, 1), end.norm().expand(frames, 1), share)
                between = between / between.norm(dim=1, keepdim=True).clamp_min(1e-8) * length
            classes = None if labels is None else labels[:1].expand(frames)
            yield self.generate_sample(generator, between, classes, truncation)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """See :meth:`Family.preview`; samples, always of the same latents."""
        return self.sample(_GRID, 0, networks=networks), 8

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """See :meth:`Family.update_statistics`: batch norm's, over so many batches (:func:`standing_statistics`)."""
        standing_statistics(networks, lambda first, n: self.sample(n, 0, first=first, networks=networks), batches)

    def sampling_latents(self, uniform: Tensor, truncation: float | None) -> Tensor:
        """z from uniform numbers; each coordinate is drawn from the prior given ``abs(z) <= truncation``."""
        return latents_from_uniform(uniform, self.prior, truncation)


class StyleBasedFamily(NoiseFamily):
    """Images are made from styles, one for each layer, that can be mixed, and that a picture can be projected into."""

    does = "mix styles or project pictures"

    @abstractmethod
    def to_styles(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Styles of each layer (N, layers, W) for ``latents`` (N, latent)."""

    @abstractmethod
    def from_styles(self, styles: Tensor) -> Tensor:
        """Images for ``styles`` (N, layers, W), float in about [-1, 1]."""

    @abstractmethod
    def mean_styles(self, label: int | None) -> Tensor:
        """The mean style for each layer (layers, W), of class ``label`` where there are classes."""


def latents_from_uniform(uniform: Tensor, prior: str, truncation: float | None) -> Tensor:
    """Latents of ``prior`` by the inverse distribution function, bounded by ``truncation``; float32."""
    if prior == "uniform":
        return ((uniform * 2 - 1) * min(truncation or 1.0, 1.0)).float()
    bound = torch.special.ndtr(torch.tensor(-truncation if truncation else -torch.inf, dtype=torch.float64))
    return torch.special.ndtri(bound + uniform * (1 - 2 * bound)).float()


def classes_from_uniform(uniform: Tensor, shares: Sequence[float]) -> Tensor:
    """Classes, int64 (N,), each with the probability that ``shares`` gives it, from uniform numbers (N,)."""
    edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(edges[:-1], uniform.double().contiguous(), right=True)
