"""Training throughput: gan_core's Trainer against the DCGAN loop that tutorials teach, in one process, block by block."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gan_core.data import PreparedDataset
from gan_core.families import ImageShape, build_family
from gan_core.families.dcgan import DcganConfig
from gan_core.precision import has_bf16
from gan_core.training.config import TrainConfig
from gan_core.training.trainer import Trainer
from tests.bench import Row
from tests.bench.pairs import in_pairs
from tests.bench.trainers import matrix_rate, seconds_of
from tests.datasets import blobs, write_prepared

BATCH, SIZE, WIDTH, LATENT = 64, 32, 64, 100
PAIRS = 8


class Textbook:
    """The loop of the tutorials: fp32, NCHW, eager, Adam as it comes, ``.item()`` at every step."""

    def __init__(self, pixels: Tensor, device: torch.device) -> None:
        config = DcganConfig(width=WIDTH, latent=LATENT)
        networks = build_family("dcgan", config, ImageShape(channels=1, height=SIZE, width=SIZE)).networks
        made, judge = networks["generator"], networks["discriminator"]
        # The same layers, without the memory layout that Gantry's own forward asks for.
        self.generator = nn.Sequential(made.project, nn.Unflatten(1, made.base), made.layers).to(device)
        self.discriminator = nn.Sequential(judge.layers, judge.judge, nn.Flatten(0)).to(device)
        self._adam_g = torch.optim.Adam(self.generator.parameters(), 2e-4, (0.5, 0.999))
        self._adam_d = torch.optim.Adam(self.discriminator.parameters(), 2e-4, (0.5, 0.999))
        self._criterion = nn.BCEWithLogitsLoss()
        self._images = (pixels.float() / 127.5 - 1).to(device)
        self._device = device

    def run(self, steps: int) -> None:
        """Train for ``steps`` steps."""
        ones, zeros = torch.ones(BATCH, device=self._device), torch.zeros(BATCH, device=self._device)
        for _ in range(steps):
            real = self._images[torch.randint(len(self._images), (BATCH,), device=self._device)]
            self.discriminator.zero_grad()
            loss_real = self._criterion(self.discriminator(real), ones)
            loss_real.backward()
            fake = self.generator(torch.rand(BATCH, LATENT, device=self._device) * 2 - 1)
            loss_fake = self._criterion(self.discriminator(fake.detach()), zeros)
            loss_fake.backward()
            self._adam_d.step()
            self.generator.zero_grad()
            loss_generator = self._criterion(self.discriminator(fake), ones)
            loss_generator.backward()
            self._adam_g.step()
            self.curve = (loss_real.item() + loss_fake.item(), loss_generator.item())


def rows() -> list[Row]:
    """One row: the Trainer's images per second over the textbook loop's."""
    device, steps = torch.device("cpu"), 3
    with tempfile.TemporaryDirectory() as folder:
        pixels = blobs(2048, SIZE)
        dataset = PreparedDataset(write_prepared(Path(folder) / "data", pixels), Path(folder) / "cache")
        never = 10**9
        seldom = {"sample_every": never, "checkpoint_every": never}
        config = TrainConfig(steps=never, batch=BATCH, **seldom)
        model = DcganConfig(width=WIDTH, latent=LATENT)
        trainer = Trainer("dcgan", model, dataset, config, Path(folder) / "checkpoints", device=device)
        textbook = Textbook(torch.from_numpy(pixels), device)

        def ours(count: int) -> None:
            trainer.run(until=trainer.step + count)

        for warm_up in (ours, textbook.run):
            warm_up(steps)
        compared = in_pairs(
            lambda: seconds_of(lambda: ours(steps), device),
            lambda: seconds_of(lambda: textbook.run(steps), device),
            pairs=PAIRS,
        )
        mine, theirs = compared.first / steps, compared.second / steps
        counted = Trainer("dcgan", model, dataset, config, Path(folder) / "counted", device=device)
        counted.run(until=1)  # before the first step, a run draws a grid
        with FlopCounterMode(display=False) as counter:
            counted.run(until=2)
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        share = counter.get_total_flops() / mine / matrix_rate(dtype, device)
    note = (
        f"{BATCH / mine:.0f} against {BATCH / theirs:.0f} images/s at {SIZE}x{SIZE}, batch {BATCH}, "
        f"{str(dtype)[6:]}; {share:.0%} of this machine's own {str(dtype)[6:]} matrix-product rate"
    )
    target: float | None = 2.0
    if not has_bf16(device):
        target = None
        note += "; the target of 2x is for a CPU with bf16 instructions, which this one lacks: both run in fp32"
    name, ratio = "training against a textbook loop", compared.ratio
    return [Row(name=name, ratio=ratio, low=compared.low, high=compared.high, target=target, note=note)]


if __name__ == "__main__":
    print(rows())
