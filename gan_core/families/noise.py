"""Base classes of the families that generate images from noise, and from a class if they are class-conditional."""

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
"""Factor of a penalty's weight in its paper."""
_GRID = 64
"""Samples in a preview grid."""
_MOST_AT_ONCE = 64
_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_ON_CPU = 2**22, 2**20
"""64 pictures of 256x256, and of 128x128. On a processor, larger batches are no faster and take gigabytes."""


class NoiseFamily(Family):
    """A family with one generator and one discriminator that generates images from noise.

    A subclass builds ``networks`` (``generator`` and ``discriminator``). It overrides :meth:`generate` unless the generator is
    called as ``generator(latents)`` or, if conditional, ``generator(latents, labels)``. Its config has the fields ``latent``
    and ``loss`` (a name in ADVERSARIAL_LOSSES).
    """

    ability = "generate images from noise"
    prior: str = "normal"
    """Distribution of z: normal, or uniform in [-1, 1]."""
    joint: ClassVar[bool] = False
    """Whether the discriminator can take real and generated images in one pass. False if it has batch statistics."""

    def __init__(self, config: Any, shape: ImageShape, *, class_shares: Sequence[float] = ()) -> None:
        """Check the classes; a subclass builds the networks.

        Args:
            config: typed configuration of the family.
            shape: shape of the pictures.
            class_shares: see :attr:`class_shares`.

        Raises:
            SettingsError: the family is class-conditional and the data has no classes.
        """
        super().__init__(config, shape)
        self.class_shares = tuple(class_shares)
        """Share of each class in the training pictures, for samples of a class-conditional family without a given label; empty
        for equal shares."""
        if self.conditional and not shape.classes:
            raise SettingsError(
                f"model.family: {self.name} needs labels, but this dataset has none. Add the data again with a folder for "
                "each class or a label column, or choose a family without classes, such as dcgan."
            )

    @classmethod
    def check_data(cls, info: DatasetInfo, config: Any) -> None:
        """See :meth:`Family.check_data`. The domains of unpaired data are not classes: a family learns from both alike."""
        super().check_data(info, config)
        if info.kind == "unpaired" and cls.is_conditional(config):
            raise SettingsError(
                f"model.family: {cls.name} is class-conditional, but unpaired data has no classes. Set ingest.kind to "
                "labelled, or choose a family without classes, such as dcgan."
            )

    # -- calls of the networks -----------------------------------------------------------------------------------------

    def generate(
        self, generator: Callable[..., Tensor], latents: Tensor, labels: Tensor | None, batch: Batch
    ) -> Tensor:
        """Generate images from ``latents`` (N, latent) and, if conditional, ``labels`` (N,), in training."""
        return generator(latents, labels) if self.conditional else generator(latents)

    def generate_sample(
        self, generator: nn.Module, latents: Tensor, labels: Tensor | None, truncation: float | None
    ) -> Tensor:
        """Generate images from ``latents`` outside training. The latents are already truncated."""
        return generator(latents, labels) if self.conditional else generator(latents)

    def pictures_at_once(self, device: torch.device) -> int:
        """Number of pictures to generate at once outside training: 64, or fewer large ones, so that they fit into memory."""
        pixels = _PIXELS_AT_ONCE_ON_CPU if device.type == "cpu" else _PIXELS_AT_ONCE
        return min(max(pixels // (self.shape.height * self.shape.width), 1), _MOST_AT_ONCE)

    def generate_in_parts(
        self, generator: nn.Module, latents: Tensor, labels: Tensor | None, truncation: float | None
    ) -> Iterator[Tensor]:
        """Yield the images of :meth:`generate_sample`, :meth:`pictures_at_once` at a time."""
        size = self.pictures_at_once(latents.device)
        for start in range(0, len(latents), size):
            part = slice(start, start + size)
            yield self.generate_sample(generator, latents[part], None if labels is None else labels[part], truncation)

    def discriminate(self, discriminator: Callable[..., Tensor], images: Tensor, labels: Tensor | None) -> Tensor:
        """Call ``discriminator`` on augmented images: outputs float32 (N,)."""
        return (discriminator(images, labels) if self.conditional else discriminator(images)).float()

    def judges_together(self, real: Tensor) -> bool:
        """Whether the discriminator takes the images ``real`` and as many generated ones in one pass."""
        return self.joint

    # -- losses --------------------------------------------------------------------------------------------------------

    def penalty(self, name: Literal["r1", "r2", "gp"], weight: Callable[[Batch], float | Tensor], every: int) -> Phase:
        """Create the phase of a penalty on the discriminator's gradient.

        Args:
            name: the penalty: R1, R2 or WGAN-GP.
            weight: weight of the penalty for a batch; gamma for R1 and R2, which is halved.
            every: interval in steps.
        """

        def loss(batch: Batch, step: int) -> Losses:
            penalty = self._penalty(name, batch, batch.real if name == "r1" else self.detached_fakes(batch))
            return Losses(penalty * (weight(batch) * _SHARES[name]), {f"penalty/{name}": penalty.detach()})

        return Phase(name=name, side="discriminator", every=every, loss=loss)

    def latents(self, batch: Batch, draw: str = "latents") -> Tensor:
        """Draw z for ``batch``, (N, latent)."""
        shape = (len(batch.real), self.config.latent)
        if self.prior == "uniform":
            return randomness.uniform(shape, batch.part, batch.real.device, *batch.key, draw) * 2 - 1
        return randomness.normal(shape, batch.part, batch.real.device, *batch.key, draw)

    def fakes(self, batch: Batch) -> Tensor:
        """See :meth:`Family.fakes`; with the classes of the real images."""
        return batch.cached(
            "fakes", lambda: self.generate(self.network("generator"), self.latents(batch), batch.labels, batch)
        )

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; class by class if the family is class-conditional."""
        fakes, classes = self.detached_fakes(batch), batch.labels if self.conditional else None
        return (DiversityPair(fakes=fakes, reals=batch.real, fake_labels=classes, real_labels=classes),)

    def discriminate_both(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the discriminator's outputs for real and for generated images, (N,) each."""
        discriminator = self.network("discriminator")
        if not self.judges_together(real):
            return self.discriminate(discriminator, real, labels), self.discriminate(discriminator, fake, labels)
        twice = None if labels is None else torch.cat([labels, labels])
        judged = self.discriminate(discriminator, torch.cat([real, fake.to(real.dtype)]), twice)
        first, second = judged.chunk(2)
        return first, second

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """See :meth:`Family.discriminator_loss`."""
        real = batch.augment(batch.real, "real")
        fake = batch.augment(self.detached_fakes(batch), "fake")
        judged_real, judged_fake = self.discriminate_both(real, fake, batch.labels)
        loss = ADVERSARIAL_LOSSES[self.config.loss]
        total = loss.discriminator(judged_real, judged_fake)
        judged_real, judged_fake = judged_real.detach(), judged_fake.detach()
        if loss.paired_generator:  # the discriminator is right if the real image of a pair scores higher
            judged_real, judged_fake = judged_real - judged_fake, judged_fake - judged_real
        threshold: float | Tensor | None = loss.threshold
        if threshold is None:
            threshold = (judged_real.mean() + judged_fake.mean()) / 2
        terms = {
            "loss/discriminator": total.detach(),
            "health/real_right": (judged_real > threshold).float().mean(),
            "health/fake_right": (judged_fake < threshold).float().mean(),
        }
        return Losses(total, terms)

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """See :meth:`Family.generator_loss`."""
        loss = ADVERSARIAL_LOSSES[self.config.loss]
        fake = batch.augment(self.fakes(batch), "fake again")
        if loss.generator:
            total = loss.generator(self.discriminate(self.network("discriminator"), fake, batch.labels))
        else:
            assert loss.paired_generator is not None
            with torch.no_grad():
                real = batch.augment(batch.real, "real again")
                judged_real = self.discriminate(self.network("discriminator"), real, batch.labels)
            judged_fake = self.discriminate(self.network("discriminator"), fake, batch.labels)
            total = loss.paired_generator(judged_fake, judged_real)
        return Losses(total, {"loss/generator": total.detach()})

    def _penalty(self, name: str, batch: Batch, fake: Tensor) -> Tensor:
        """R1, R2 or GP, with the gradient taken at augmented images, as the discriminator gets them."""
        with torch.no_grad():
            images = batch.augment(fake.float() if name == "r2" else batch.real, name)
            other = batch.augment(fake.float(), "gp fake") if name == "gp" else images

        labels = batch.labels if self.conditional else None
        if name == "gp":
            mix = randomness.uniform((len(fake), 1, 1, 1), batch.part, fake.device, *batch.key, "gp mix")
            return self.differentiated(self._between, "discriminator", images, other, mix, labels)[0]
        return self.differentiated(self._zero_centred, "discriminator", images, labels)[0]

    def _zero_centred(self, discriminator: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        return (zero_centred_penalty(lambda x: self.discriminate(discriminator, x, labels), images),)

    def _between(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, mix: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, ...]:
        return (gradient_penalty(lambda x: self.discriminate(discriminator, x, labels), real, fake, mix),)

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
        """Generate pictures ``first`` to ``first + n`` of ``seed``: float in [-1, 1], (n, C, H, W).

        Args:
            n: number of pictures.
            seed: seed of a sequence of pictures. Picture i of a seed is the same in any batch.
            label: class index, for a class-conditional family; None draws classes with their shares in the training pictures.
            truncation: bound of each latent coordinate, unless the family defines it otherwise; None for the full prior.
            first: index of the first picture in the sequence.
            networks: generators to use instead of the family's own, such as an EMA copy.

        Raises:
            SettingsError: the family does not accept the label or the truncation.
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
        """Draw the inputs of pictures ``first`` to ``first + n`` of ``seed``: z (n, latent), and classes (n,) or None.

        The arguments are those of :meth:`sample`.

        Raises:
            SettingsError: the family does not accept the label or the truncation.
        """
        if label is not None and not self.conditional:
            raise SettingsError(f"label: {self.name} is unconditional and takes no label. Leave it out.")
        if label is not None and not 0 <= label < self.shape.classes:
            raise SettingsError(f"label: no class {label}. Choose one of 0 to {self.shape.classes - 1}.")
        if truncation is not None and not truncation > 0:
            raise SettingsError(f"truncation: must be above 0, got {truncation}.")
        # The additional column draws the class, so that z is the same with and without a given label.
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
        """Interpolate between ``n`` pictures of ``seed`` in the latent space, and back to the first: ``frames`` per picture.

        Yields float (frames, C, H, W) in [-1, 1]. All have the same class: ``label``, or that of the first picture.
        """
        generator = self.networks["generator"]
        latents, labels = self.draw(n, seed, label, truncation, device=next(generator.parameters()).device)
        share = torch.linspace(0, 1, frames + 1, device=latents.device)[:-1, None]
        for start, end in zip(latents, latents.roll(-1, dims=0), strict=True):
            between = torch.lerp(start[None], end[None], share)
            if self.prior == "normal":
                # A linear interpolation of two normal draws is too short half-way: restore the length.
                length = torch.lerp(start.norm().expand(frames, 1), end.norm().expand(frames, 1), share)
                between = between / between.norm(dim=1, keepdim=True).clamp_min(1e-8) * length
            classes = None if labels is None else labels[:1].expand(frames)
            yield torch.cat([*self.generate_in_parts(generator, between, classes, truncation)])

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """See :meth:`Family.preview`; samples from fixed latents."""
        size = self.pictures_at_once(next(networks["generator"].parameters()).device)
        parts = range(0, _GRID, size)
        return torch.cat([self.sample(min(size, _GRID - n), 0, first=n, networks=networks) for n in parts]), 8

    def update_statistics(self, networks: Mapping[str, nn.Module], *, batches: int = 16) -> None:
        """See :meth:`Family.update_statistics`; those of batch norm (:func:`standing_statistics`)."""
        standing_statistics(networks, lambda first, n: self.sample(n, 0, first=first, networks=networks), batches)

    def sampling_latents(self, uniform: Tensor, truncation: float | None) -> Tensor:
        """Convert uniform numbers to z. With ``truncation``, the prior is restricted to ``abs(z) <= truncation``."""
        return latents_from_uniform(uniform, self.prior, truncation)

    @abstractmethod
    def latent_weights(self) -> Tensor:
        """Return the weights of the layers that take z, (rows, latent), one below the other.

        If a layer takes only a part of z, its rows are zero elsewhere.
        """


class StyleBasedFamily(NoiseFamily):
    """A family that generates images from styles, one per layer, with support for style mixing and projection."""

    ability = "mix styles or project pictures"

    @abstractmethod
    def to_styles(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Map ``latents`` (N, latent) to a style for each layer, (N, layers, W)."""

    @abstractmethod
    def from_styles(self, styles: Tensor) -> Tensor:
        """Generate images from ``styles`` (N, layers, W), float in about [-1, 1]."""

    @abstractmethod
    def truncate_styles(self, styles: Tensor, labels: Tensor | None, psi: float | Tensor) -> Tensor:
        """Truncate ``styles`` (N, layers, W) towards the mean style, of their class if conditional: mean + psi (w - mean)."""

    @abstractmethod
    def mean_styles(self, label: int | None) -> Tensor:
        """Return the mean style for each layer, (layers, W), of class ``label`` if the family is class-conditional."""

    @abstractmethod
    def style_weights(self) -> list[Tensor]:
        """Return for each layer the weights by which it takes its style, (rows, W)."""


def latents_from_uniform(uniform: Tensor, prior: str, truncation: float | None) -> Tensor:
    """Convert uniform numbers to latents of ``prior``, bounded by ``truncation``; float32."""
    if prior == "uniform":
        return ((uniform * 2 - 1) * min(truncation or 1.0, 1.0)).float()
    bound = torch.special.ndtr(torch.tensor(-truncation if truncation else -torch.inf, dtype=torch.float64))
    return torch.special.ndtri(bound + uniform * (1 - 2 * bound)).float()


def classes_from_uniform(uniform: Tensor, shares: Sequence[float]) -> Tensor:
    """Convert uniform numbers (N,) to classes, int64 (N,), with the probabilities ``shares``."""
    edges = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    return torch.searchsorted(edges[:-1], uniform.double().contiguous(), right=True)
