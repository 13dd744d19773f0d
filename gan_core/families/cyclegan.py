"""CycleGAN: Zhu, Park, Isola & Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks".

Two residual generators, one for each direction, and a discriminator of 70x70 patches for each domain, in a least-squares
game. A picture that is translated there and back is to be itself again; one of the target domain is to stay as it is.
With ``objective: contrastive`` there is no way back: see :mod:`gan_core.families.contrastive`.
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
from gan_core.nn.initialise import normal_weights
from gan_core.nn.losses import least_squares_discriminator, least_squares_generator
from gan_core.nn.padding import cropped, padded

_LARGE = 256
"""From this side on, the paper's generators have 9 residual blocks, below it 6 (section 7.2)."""


@dataclass(frozen=True, kw_only=True)
class CycleGanConfig:
    """CycleGAN's own settings; the defaults are the paper's."""

    width: int = 64
    """Maps of a generator's first layer; four times as many in its residual blocks."""
    blocks: int = 0
    """Residual blocks; 0: 6 for pictures under 256 pixels, 9 from there."""
    patch_width: int = 64
    """Maps of a discriminator's first layer."""
    patch_halvings: int = 3
    """How often a discriminator halves its picture: 3 judges patches of 70x70 pixels, 2 of 34x34, 1 of 16x16."""
    slope: float = 0.2
    """Leak slope of every leaky ReLU; the generators have plain ones."""
    objective: Literal["cycle", "contrastive"] = "cycle"
    """What ties a translation to its source: the way back, or that its patches are recognised (Park et al. 2020, CUT)."""
    cycle: float = 10.0
    """Weight of what is lost on the way there and back (equation 3)."""
    contrast: float = 1.0
    """Weight of patches that are not recognised, in place of ``cycle`` (CUT, equation 5)."""
    identity: float = 0.5
    """Weight, relative to ``cycle`` or ``contrast``, of what is changed in a picture that is of the target domain already
    (section 5.2; CUT's is 1, which ``auto`` chooses for its objective)."""
    patches: int = 256
    """Places of a picture that are told from each other, for objective contrastive (CUT, section 4)."""
    temperature: float = 0.07
    """What their likeness is divided by, for objective contrastive (CUT, section 4)."""
    pool: int = 50
    """Generated pictures of each direction that the discriminators are also shown later (section 4); 0: none are kept, which
    ``auto`` chooses for CUT's objective."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "width", "patch_width", "patch_halvings")
        check_at_least(self, 0, "blocks", "cycle", "contrast", "identity", "pool")
        check_at_least(self, 2, "patches")
        check_below_one(self, "slope")
        check(self.temperature > 0, f"temperature: must be above 0, got {self.temperature}.")


class _Generated(NamedTuple):
    """What a generator makes of a batch."""

    pictures: Tensor
    """Translations (N, C, H, W), and behind them what becomes of pictures that are of the target domain, if that counts."""
    seen: list[Tensor]
    """What its encoder sees at some places of the sources, for objective contrastive: (N, places, 256) each."""


class CycleGan(TranslationFamily):
    """Translation between two domains without pairs: from A (``condition``) to B (``real``) and back."""

    name = "cyclegan"
    Config = CycleGanConfig
    kinds = frozenset({"unpaired"})
    generators = ("a_to_b", "b_to_a")
    discriminators = ("a", "b")
    side_multiple = 4

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
            normal_weights(network)
        if config.pool:
            for name in self.discriminators:
                self.buffers[f"pool_{name}"] = torch.zeros(config.pool, channels, shape.height, shape.width)
                self.buffers[f"pooled_{name}"] = torch.zeros((), dtype=torch.int64)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """A to B, and B to A."""
        return ((0, 1), (1, 0))

    def check_target(self, target: int | None) -> int | None:
        """See :meth:`TranslationFamily.check_target`; B where it is left out."""
        return super().check_target(1 if target is None else target)

    # -- training --

    def generated(self, batch: Batch, *, identity: bool) -> dict[str, _Generated]:
        """What each generator makes of its domain's pictures and, with ``identity``, of the other's: in one pass."""
        domains = {"a_to_b": (conditions_of(batch), batch.real), "b_to_a": (batch.real, conditions_of(batch))}
        made = {}
        for name, (source, target) in domains.items():
            images, borders = padded(
                torch.cat([source, target]) if identity else source, self.side_multiple, self.min_side
            )
            places = self._places(name, images, batch)
            answer: Any = self.network(name)(images, places) if places else (self.network(name)(images), [])
            pictures, seen = answer
            made[name] = _Generated(cropped(pictures, borders), seen)
        return made

    def fakes(self, batch: Batch) -> Tensor:
        """Pictures of domain B made from the batch's of domain A."""
        return self._fakes(batch)["b"]

    def _fakes(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures generated for the batch, by the domain that they are to be of."""
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
        """Where generator ``name`` is asked what it sees in ``images``; nowhere, unless the objective is contrastive."""
        generator = self.networks[name]
        if not isinstance(generator, ContrastiveGenerator):
            return []
        height, width = images.shape[2:]
        return generator.places(height, width, self.config.patches, images.device, *batch.key, "places", name)

    def discriminator_loss(self, batch: Batch, step: int) -> Losses:
        """Both discriminators' least squares of real pictures and of generated ones, new and old, in one pass each."""
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
        """What the discriminators say, what ties translations to their sources, and what is changed without need."""
        config, rows = self.config, len(batch.real)
        made = self._kept(batch)
        tie = "cycle" if config.objective == "cycle" else "contrast"
        terms = {name: batch.real.new_zeros(()) for name in ("adversarial", tie, "identity")}
        sides = (("a_to_b", "b_to_a", "b", conditions_of(batch)), ("b_to_a", "a_to_b", "a", batch.real))
        for name, back, judge, source in sides:
            fake = made[name].pictures[:rows]
            judged = self.network(judge)(batch.augment(fake, f"fake {judge} again")).float()
            # The paper's generators take the whole square, its discriminators half of theirs (section 4).
            terms["adversarial"] = terms["adversarial"] + 2 * least_squares_generator(judged)
            if tie == "contrast":
                unlike = self._unlike(name, made[name], batch)
                terms["contrast"] = terms["contrast"] + unlike[:rows].mean()
                terms["identity"] = terms["identity"] + (unlike[rows:].mean() if config.identity else 0.0)
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

    def _unlike(self, name: str, made: _Generated, batch: Batch) -> Tensor:
        """How badly the patches of each picture that generator ``name`` made are recognised: (N,)."""
        images, _ = padded(made.pictures, self.side_multiple, self.min_side)
        seen: Any = self.network(name)(images, self._places(name, images, batch), False)
        return patch_nce(seen, made.seen, self.config.temperature)

    @torch.no_grad()
    def query_pool(self, name: str, fakes: Tensor, batch: Batch) -> Tensor:
        """What discriminator ``name`` is shown for ``fakes`` (N, C, H, W): half of them are old ones in their place.

        A pool holds the last generated pictures of all workers: until it is full each is kept and shown; from then on
        each is, with probability 0.5, put in the place of one from the pool, which is shown (Shrivastava et al. 2017).
        """
        if not self.config.pool:
            return fakes
        pool, count = self.buffers[f"pool_{name}"], self.buffers[f"pooled_{name}"]
        everyone = collectives.all_gather_rows(fakes)
        key, alone = (*batch.key, "pool", name), randomness.WorkerSlice()
        shown = []
        # Pieces that fit the pool, so that no two of one piece want the same place.
        for piece, new in enumerate(everyone.split(len(pool))):
            order = randomness.uniform((len(pool),), alone, new.device, *key, "order", piece)
            swap = randomness.uniform((len(new), 1, 1, 1), alone, new.device, *key, "swap", piece) < 0.5
            shown.append(_exchanged(pool, count, new, order, swap))
            count.add_(len(new)).clamp_(max=len(pool))
        return torch.cat(shown)[batch.part.rows(len(fakes))]

    # -- use --

    def translate_aligned(
        self, images: Tensor, target: int | None, networks: Mapping[str, nn.Module], seed: int, first: int
    ) -> Tensor:
        """See :meth:`TranslationFamily.translate_aligned`; nothing is random."""
        return networks["a_to_b" if target == 1 else "b_to_a"](images)

    def preview(self, reals: Batch, networks: Mapping[str, nn.Module]) -> tuple[Tensor, int]:
        """Rows of a picture of A, the same as B, a picture of B, the same as A."""
        a, b = conditions_of(reals), reals.real
        rows = min(len(a), len(b))
        a, b = a[:rows], b[:rows]
        return grid_rows(a, self.translate(a, 1, networks=networks), b, self.translate(b, 0, networks=networks))


def _exchanged(pool: Tensor, count: Tensor, new: Tensor, order: Tensor, swap: Tensor) -> Tensor:
    """What is shown for ``new``; ``pool``, of which ``count`` places are taken, changes. Nothing waits for the device."""
    place = count + torch.arange(len(new), device=new.device)
    free = place < len(pool)
    # Taken places in a random order: who finds no free one takes the next of these.
    taken = torch.where(torch.arange(len(pool), device=new.device) < count, order, 2.0).argsort(stable=True)
    place = torch.where(free, place, taken[(place - len(pool)).clamp(min=0)])
    old = pool[place]
    swap = swap & ~free[:, None, None, None]
    pool.index_copy_(0, place, torch.where(swap | free[:, None, None, None], new, old))
    return torch.where(swap, old, new)
