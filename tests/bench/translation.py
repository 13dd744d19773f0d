"""Families of translation, on the CPU: a step against the straightforward loop of the same networks.

``python -m tests.gpu speed`` measures a GPU.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.families import require
from gan_core.families.pix2pix import UNet
from gan_core.families.translation import TranslationFamily
from gan_core.families.translation_layers import one_hot
from gan_core.precision import has_bf16
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.straightforward import torchs_own, with_torchs_layers
from tests.bench.trainers import auto_trainer, made_up_data, race, run_steps

SIZE, STEPS = 64, 3
# Auto would take the same; said here so that both sides have it.
BATCHES = {"pix2pix": 4, "cyclegan": 4, "stargan": 16}
PICTURES = 64


class Straightforward:
    """A loop as a paper's text orders it: eager, fp32, NCHW, torch's own layers, each expectation from calls of its own.

    The fakes are made anew for each update, real and generated pictures are judged one after the other, identity and
    translation are two calls.
    """

    def __init__(self, trainer: Trainer) -> None:
        family = require(trainer.family, TranslationFamily)
        self.config, self.shape = family.config, family.shape
        self.networks = {name: with_torchs_layers(network) for name, network in family.networks.items()}
        self._feed, self._turn = trainer._feed, 0
        rates, betas = trainer.config.learning_rates, (trainer.config.beta1, trainer.config.beta2)
        self._sides = {"generator": family.generators, "discriminator": family.discriminators}
        self._adam = {
            side: torch.optim.Adam((p for name in names for p in self.networks[name].parameters()), rates[side], betas)
            for side, names in self._sides.items()
        }
        self._rounds = trainer.config.discriminator_steps
        self._pools: dict[str, list[Tensor]] = {"a": [], "b": []}
        losses: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
            "pix2pix": (self._pix2pix_discriminator, self._pix2pix_generator),
            "cyclegan": (self._cyclegan_discriminators, self._cyclegan_generators),
            "stargan": (self._stargan_discriminator, self._stargan_generator),
        }
        self._losses = losses[trainer.family.name]

    def run(self, steps: int) -> None:
        """Train for ``steps`` steps."""
        with torchs_own():
            for _ in range(steps):
                for _ in range(self._rounds):
                    real, labels, condition = self._feed(self._turn)
                    self._turn += 1
                    batch = (real.contiguous(), labels, None if condition is None else condition.contiguous())
                    self._update("discriminator", self._losses[0](*batch))
                self._update("generator", self._losses[1](*batch))

    def _update(self, side: str, loss: Tensor) -> None:
        self._adam[side].zero_grad()
        loss.backward()
        self._adam[side].step()
        loss.item()

    # -- Isola et al. 2017, sections 3.1 to 3.3

    def _answer(self, condition: Tensor) -> Tensor:
        generator = self.networks["generator"]
        assert isinstance(generator, UNet)
        shapes = generator.noise_shapes(condition.shape[2], condition.shape[3])
        ones = [torch.ones(len(condition), *shape, device=condition.device) for shape in shapes]
        return generator(condition, [F.dropout(x, self.config.dropout) for x in ones])

    def _pix2pix_discriminator(self, real: Tensor, labels: None, condition: Tensor) -> Tensor:
        judge = self.networks["discriminator"]
        judged_real = judge(torch.cat([condition, real], dim=1))
        judged_fake = judge(torch.cat([condition, self._answer(condition).detach()], dim=1))
        return (entropy(judged_real, 1.0) + entropy(judged_fake, 0.0)) / 2

    def _pix2pix_generator(self, real: Tensor, labels: None, condition: Tensor) -> Tensor:
        fake = self._answer(condition)
        judged = self.networks["discriminator"](torch.cat([condition, fake], dim=1))
        return entropy(judged, 1.0) + self.config.l1 * F.l1_loss(fake, real)

    # -- Zhu et al. 2017, sections 3 and 4

    def _cyclegan_discriminators(self, b: Tensor, labels: None, a: Tensor) -> Tensor:
        fakes = {"a": self.networks["b_to_a"](b).detach(), "b": self.networks["a_to_b"](a).detach()}
        total = torch.zeros((), device=a.device)
        for name, real in (("a", a), ("b", b)):
            judge, shown = self.networks[name], self._remembered(name, fakes[name])
            total = total + ((judge(real) - 1).square().mean() + judge(shown).square().mean()) / 2
        return total

    def _remembered(self, name: str, fakes: Tensor) -> Tensor:
        pool, shown = self._pools[name], []
        for fake in fakes:
            if len(pool) < self.config.pool:
                pool.append(fake)
            elif np.random.rand() < 0.5:
                place = np.random.randint(len(pool))
                fake, pool[place] = pool[place], fake
            shown.append(fake)
        return torch.stack(shown)

    def _cyclegan_generators(self, b: Tensor, labels: None, a: Tensor) -> Tensor:
        to_b, to_a = self.networks["a_to_b"], self.networks["b_to_a"]
        fake_b, fake_a = to_b(a), to_a(b)
        adversarial = (self.networks["b"](fake_b) - 1).square().mean() + (
            self.networks["a"](fake_a) - 1
        ).square().mean()
        cycle = F.l1_loss(to_a(fake_b), a) + F.l1_loss(to_b(fake_a), b)
        identity = F.l1_loss(to_b(b), b) + F.l1_loss(to_a(a), a)
        return adversarial + self.config.cycle * (cycle + self.config.identity * identity)

    # -- Choi et al. 2018, section 3

    def _stargan_discriminator(self, real: Tensor, labels: Tensor, condition: None) -> Tensor:
        judge = self.networks["discriminator"]
        wanted = one_hot(labels[torch.randperm(len(labels), device=labels.device)], self.shape.classes)
        fake = self.networks["generator"](real, wanted).detach()
        (judged_real, said), (judged_fake, _) = judge(real), judge(fake)
        mix = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (gradient,) = torch.autograd.grad(judge(between)[0].sum(), between, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        critic = judged_fake.mean() - judged_real.mean()
        classified = self.config.classification * F.cross_entropy(said, labels)
        return critic + classified + self.config.gradient_penalty * penalty

    def _stargan_generator(self, real: Tensor, labels: Tensor, condition: None) -> Tensor:
        generate, wanted = self.networks["generator"], labels[torch.randperm(len(labels), device=labels.device)]
        fake = generate(real, one_hot(wanted, self.shape.classes))
        judged, said = self.networks["discriminator"](fake)
        returned = generate(fake, one_hot(labels, self.shape.classes))
        classified = self.config.classification * F.cross_entropy(said, wanted)
        return -judged.mean() + classified + self.config.reconstruction * F.l1_loss(returned, real)


def entropy(judged: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against one target for all."""
    return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, target))


def rows() -> list[Row]:
    """One row a family: the Trainer's images per second over the straightforward loop's."""
    with tempfile.TemporaryDirectory() as folder:
        return [_family(name, Path(folder) / name) for name in BATCHES]


def _family(name: str, place: Path) -> Row:
    device, batch = torch.device("cpu"), BATCHES[name]
    data = made_up_data(name, place, SIZE, PICTURES)
    ours = auto_trainer(name, data, place / "ours", device, batch=batch)
    plain = Straightforward(ours)
    seconds = race({"ours": lambda: run_steps(ours, STEPS), "plain": lambda: plain.run(STEPS)}, device)
    bf16, shown = has_bf16(device), batch * ours.config.discriminator_steps * STEPS
    note = (
        f"{shown / seconds['ours']:.1f} against {shown / seconds['plain']:.1f} images/s at {SIZE} pixels, batch {batch}"
    )
    if not bf16:
        note += "; without bf16 instructions both run in fp32, and the target does not hold"
    ratio = seconds["plain"] / seconds["ours"]
    target = 1.6 if bf16 else None
    return Row(name=f"{name}: a step against the straightforward loop", ratio=ratio, target=target, note=note)
