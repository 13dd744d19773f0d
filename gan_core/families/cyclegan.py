"""CycleGAN: Zhu, Park, Isola & Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks".

Two residual generators, one for each direction, and a discriminator of 70x70 patches for each domain, with the least-squares
loss. Cycle consistency: a picture translated there and back should be the original. Identity loss: a picture that is already of
the target domain should not change. With ``objective: contrastive``, the loss of CUT replaces cycle consistency
(:mod:`gan_core.families.contrastive`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.batch import Batch
from gan_core.config import check, check_at_least, check_below_one
from gan_core.families.base import DiversityPair, ImageShape, Losses
from gan_core.families.contrastive import ContrastiveGenerator, patch_nce
from gan_core.families.translation import TranslationFamily, conditions_of, discriminator_accuracy, grid_rows
from gan_core.families.translation_layers import PatchDiscriminator, ResidualGenerator
from gan_core.nn import collectives
from gan_core.nn.initialise import init_normal
from gan_core.nn.losses import least_squares_discriminator, least_squares_generator
from gan_core.nn.padding import crop_borders, pad_to_multiple

_LARGE = 256
"""Side in pixels from which the paper's generators have 9 residual blocks instead of 6 (section 7.2)."""


@dataclass(frozen=True, kw_only=True)
class CycleGanConfig:
    """Settings of CycleGAN. The defaults are the paper's."""

    width: int = 64
    """Feature maps of a generator's first layer; its residual blocks have four times as many."""
    blocks: int = 0
    """Residual blocks of a generator; 0: 6 for pictures below 256 pixels, else 9."""
    patch_width: int = 64
    """Feature maps of a discriminator's first layer."""
    patch_halvings: int = 3
    """Number of discriminator layers that halve the resolution: 3 for patches of 70x70 pixels, 2 for 34x34, 1 for 16x16."""
    slope: float = 0.2
    """Negative slope of the discriminators' leaky ReLUs; the generators have plain ReLUs."""
    objective: Literal["cycle", "contrastive"] = "cycle"
    """Loss that ties a translation to its source: cycle consistency, or the contrastive loss of patches (CUT; Park et al.
    2020)."""
    cycle: float = 10.0
    """Weight of the cycle-consistency loss (equation 3)."""
    contrast: float = 1.0
    """Weight of the contrastive loss, for objective contrastive (CUT, equation 5)."""
    identity: float = 0.5
    """Weight of the identity loss relative to ``cycle`` or ``contrast`` (section 5.2; with objective contrastive ``auto``
    chooses 1, as in CUT)."""
    patches: int = 256
    """Positions per layer that the contrastive loss compares, for objective contrastive (CUT, section 4)."""
    temperature: float = 0.07
    """Temperature of the contrastive loss, for objective contrastive (CUT, section 4)."""
    pool: int = 50
    """Size of the pool of earlier generated pictures per direction, which the discriminators also see (section 4); 0: no pool,
    which ``auto`` chooses for objective contrastive."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "patch_width", "patch_halvings")
        check_at_least(self, 0, "blocks", "cycle", "contrast", "identity", "pool")
        check_at_least(self, 2, "patches")
        check_below_one(self, "slope")
        check(self.temperature > 0, f"temperature: must be above 0, got {self.temperature}.")


class _Generated(NamedTuple):
    """The output of a generator for a batch."""

    pictures: Tensor
    """Translations (N, C, H, W), followed by the outputs for pictures of the target domain if the identity loss needs them."""
    seen: list[Tensor]
    """Features of its encoder at some positions of the sources, for objective contrastive: (N, positions, 256) each."""


class CycleGan(TranslationFamily):
    """CycleGAN: unpaired translation between the domains A (``condition``) and B (``real``), in both directions."""

    name = "cyclegan"
    Config = CycleGanConfig
    kinds = frozenset({"unpaired"})
    generators: tuple[str, ...] = ("a_to_b", "b_to_a")
    discriminators = ("a", "b")
    side_multiple = 4
    separate_generators = True

    def __init__(self, config: CycleGanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        blocks = config.blocks or (9 if min(shape.height, shape.width) >= _LARGE else 6)
        channels = shape.channels

        def generator() -> ResidualGenerator:
            if config.objective == "contrastive":
                return ContrastiveGenerator(channels, config.width, blocks)
            return ResidualGenerator(channels, channels, config.width, blocks, kernel=3, reflect=True, bias=True)

        self.networks = {
            **{name: generator() for name in self.generators},
            **{
                name: PatchDiscriminator(channels, config.patch_width, config.patch_halvings, config.slope, shape)
                for name in self.discriminators
            },
        }
        for network in self.networks.values():
            init_normal(network)
        if config.pool:
            for name in self.discriminators:
                self.buffers[f"pool_{name}"] = torch.zeros(config.pool, channels, shape.height, shape.width)
                self.buffers[f"pooled_{name}"] = torch.zeros((), dtype=torch.int64)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """A to B, and B to A; only one of them if the other generator is missing."""
        own = {"a_to_b": (0, 1), "b_to_a": (1, 0)}
        return tuple(own[name] for name in self.generators)

    def check_target(self, target: int | None) -> int | None:
        """See :meth:`TranslationFamily.check_target`; the default is B, or the only target."""
        default = 1 if 1 in self.target_domains else 0
        return super().check_target(default if target is None else target)

    def keep_generators(self, names: tuple[str, ...]) -> None:
        """See :meth:`Family.keep_generators`; one direction may be missing."""
        if len(names) == 1 and names[0] in self.generators:
            self.generators, self.incomplete = names, True
            self.networks = {name: network for name, network in self.networks.items() if name in names}
        else:
            super().keep_generators(names)

    # -- training --

    def generated(self, batch: Batch, *, identity: bool) -> dict[str, _Generated]:
        """Run each generator on the pictures of its source domain and, with ``identity``, of its target domain, in one pass."""
        domains = {"a_to_b": (conditions_of(batch), batch.real), "b_to_a": (batch.real, conditions_of(batch))}
        made = {}
        for name, (source, target) in domains.items():
            images, borders = pad_to_multiple(
                torch.cat([source, target]) if identity else source, self.side_multiple, self.min_side
            )
            places = self._places(name, images, batch)
            answer: Any = self.network(name)(images, places) if places else (self.network(name)(images), [])
            pictures, seen = answer
            made[name] = _Generated(crop_borders(pictures, borders), seen)
        return made

    def fakes(self, batch: Batch) -> Tensor:
        """Translate the batch's pictures of domain A to domain B."""
        return self._fakes(batch)["b"]

    def _fakes(self, batch: Batch) -> dict[str, Tensor]:
        """The pictures generated for the batch, by target domain."""
        made, rows = self._kept(batch) if batch.keep else self.generated(batch, identity=False), len(batch.real)
        return {"a": made["b_to_a"].pictures[:rows], "b": made["a_to_b"].pictures[:rows]}

    def diversity_pairs(self, batch: Batch) -> tuple[DiversityPair, ...]:
        """See :meth:`Family.diversity_pairs`; both directions."""
        fakes = self._fakes(batch)
        return (
            DiversityPair(fakes=fakes["b"], reals=batch.real),
            DiversityPair(fakes=fakes["a"], reals=conditions_of(batch)),
        )

    def _kept(self, batch: Batch) -> dict[str, _Generated]:
        return batch.cached("made", lambda: self.generated(batch, identity=self.config.identity > 0))

    def _places(self, name: str, images: Tensor, batch: Batch) -> list[Tensor]:
        """Positions in ``images`` at which generator ``name`` returns features; none unless the objective is contrastive."""
        generator = self.networks[name]
        if not isinstance(generator, ContrastiveGenerator):
            return []
        height, width = images.shape[2:]
        return generator.places(height, width, self.config.patches, images.device, *batch.key, "places", name)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Least-squares loss of both discriminators for real pictures and for generated ones from the pool."""
        with torch.set_grad_enabled(batch.keep and torch.is_grad_enabled()):
            fakes = self._fakes(batch)
        total, shares = batch.real.new_zeros(()), []
        for name, real in (("a", conditions_of(batch)), ("b", batch.real)):
            shown = self.query_pool(name, fakes[name].detach().float(), batch)
            images = [batch.augment(real, f"real {name}"), batch.augment(shown, f"fake {name}")]
            judged_real, judged_fake = self.network(name)(torch.cat(images)).float().chunk(2)
            total = total + least_squares_discriminator(judged_real, judged_fake)
            shares.append(discriminator_accuracy(judged_real, judged_fake, 0.5))
        terms = {name: (shares[0][name] + shares[1][name]) / 2 for name in shares[0]}
        return Losses(total, {"loss/discriminator": total.detach(), **terms})

    def generator_loss(self, batch: Batch, step: int) -> Losses:
        """Adversarial loss, cycle-consistency or contrastive loss, and identity loss of both generators."""
        config, rows = self.config, len(batch.real)
        made = self._kept(batch)
        tie = "cycle" if config.objective == "cycle" else "contrast"
        terms = {name: batch.real.new_zeros(()) for name in ("adversarial", tie, "identity")}
        sides = (("a_to_b", "b_to_a", "b", conditions_of(batch)), ("b_to_a", "a_to_b", "a", batch.real))
        for name, back, judge, source in sides:
            fake = made[name].pictures[:rows]
            judged = self.network(judge)(batch.augment(fake, f"fake {judge} again")).float()
            # In the paper the generators' loss is the whole square, the discriminators' is halved (section 4).
            terms["adversarial"] = terms["adversarial"] + 2 * least_squares_generator(judged)
            if tie == "contrast":
                contrast = self._patch_nce(name, made[name], batch)
                terms["contrast"] = terms["contrast"] + contrast[:rows].mean()
                terms["identity"] = terms["identity"] + (contrast[rows:].mean() if config.identity else 0.0)
                continue
            returned = self.call_padded(self.network(back), fake)
            terms["cycle"] = terms["cycle"] + (returned.float() - source).abs().mean()
            if config.identity:
                target = batch.real if name == "a_to_b" else conditions_of(batch)
                changed = made[name].pictures[rows:].float() - target
                terms["identity"] = terms["identity"] + changed.abs().mean()
        weight = config.cycle if tie == "cycle" else config.contrast
        total = terms["adversarial"] + weight * (terms[tie] + config.identity * terms["identity"])
        return Losses(total, {f"loss/{name}": term.detach() for name, term in {"generator": total, **terms}.items()})

    def _patch_nce(self, name: str, made: _Generated, batch: Batch) -> Tensor:
        """PatchNCE loss of each picture of generator ``name``: (N,)."""
        images, _ = pad_to_multiple(made.pictures, self.side_multiple, self.min_side)
        seen: Any = self.network(name)(images, self._places(name, images, batch), False)
        return patch_nce(seen, made.seen, self.config.temperature)

    @torch.no_grad()
    def query_pool(self, name: str, fakes: Tensor, batch: Batch) -> Tensor:
        """Replace about half of ``fakes`` (N, C, H, W) with earlier ones, for discriminator ``name`` (Shrivastava et al. 2017).

        A pool holds generated pictures of all workers. Until it is full, each new picture is stored and returned. Then, with
        probability 0.5, a new picture replaces one of the pool, which is returned in its place.
        """
        if not self.config.pool:
            return fakes
        pool, count = self.buffers[f"pool_{name}"], self.buffers[f"pooled_{name}"]
        gathered = collectives.all_gather_rows(fakes)
        key, single = (*batch.key, "pool", name), randomness.WorkerSlice()
        shown = []
        # Pieces no larger than the pool, so that no two pictures of a piece get the same slot.
        for piece, new in enumerate(gathered.split(len(pool))):
            order = randomness.uniform((len(pool),), single, new.device, *key, "order", piece)
            swap = randomness.uniform((len(new), 1, 1, 1), single, new.device, *key, "swap", piece) < 0.5
            shown.append(_exchanged(pool, count, new, order, swap))
            count.add_(len(new)).clamp_(max=len(pool))
        return torch.cat(shown)[batch.part.rows(len(fakes))]

    # -- use --

    def translate_aligned(
        self, images: Tensor, target: int | Tensor | None, networks: Mapping[str, nn.Module], noise: Tensor | None
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`; deterministic."""
        return networks["a_to_b" if target == 1 else "b_to_a"](images)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture of A, its translation to B, a picture of B, and its translation to A, where there are these."""
        a, b = conditions_of(reals), reals.real
        rows = min(len(a), len(b))
        sources = {0: a[:rows], 1: b[:rows]}
        shown = [
            (sources[of], self.translate(sources[of], to, networks=networks))
            for of, to in ((0, 1), (1, 0))
            if (of, to) in self.directions
        ]
        return grid_rows(*(pictures for pair in shown for pictures in pair))


def _exchanged(pool: Tensor, count: Tensor, new: Tensor, order: Tensor, swap: Tensor) -> Tensor:
    """Exchange ``new`` pictures with those of ``pool``, which has ``count`` slots in use. Never waits for the device."""
    place = count + torch.arange(len(new), device=new.device)
    free = place < len(pool)
    # Used slots in random order, for pictures that find no free slot.
    taken = torch.where(torch.arange(len(pool), device=new.device) < count, order, 2.0).argsort(stable=True)
    place = torch.where(free, place, taken[(place - len(pool)).clamp(min=0)])
    old = pool[place]
    swap = swap & ~free[:, None, None, None]
    pool.index_copy_(0, place, torch.where(swap | free[:, None, None, None], new, old))
    return torch.where(swap, old, new)
