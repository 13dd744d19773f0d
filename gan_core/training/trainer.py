"""The training loop: two losses, two optimisers, two separate updates, whatever the family."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.config import as_dict
from gan_core.data import PreparedDataset
from gan_core.errors import TrainingDivergedError
from gan_core.families import Batch, ImageShape, Losses, build_family
from gan_core.generator import save_generator, standing_statistics, to_uint8
from gan_core.training import checkpoint as checkpoints
from gan_core.training.config import FREE_TO_CHANGE, TrainConfig
from gan_core.training.ema import Averaged, ema_decay
from gan_core.training.feed import Feed
from gan_core.training.health import Watch, spread
from gan_core.training.precision import choose_device, choose_precision
from gan_core.training.world import World

log = logging.getLogger(__name__)

GRID = 64
GRID_SEED = 0
_GRID_BATCHES = 4
"""Batches that a grid's statistics are measured on: enough to look at, and a quarter of the time."""


class Observer(Protocol):
    """What a run tells the outside. All but :meth:`checkpoint` are called on rank 0 alone."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """A row of metrics."""

    def pictures(self, pictures: Tensor, step: int) -> None:
        """A grid's pictures at fixed latents: uint8 (64, C, H, W)."""

    def checkpoint(self, path: Path | None, step: int) -> None:
        """A checkpoint is whole. Called on every rank at the same steps; only rank 0 has a path."""


class Silent:
    """An observer that keeps nothing."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Nothing."""

    def pictures(self, pictures: Tensor, step: int) -> None:
        """Nothing."""

    def checkpoint(self, path: Path | None, step: int) -> None:
        """Nothing."""


class Trainer:
    """Trains one family on one prepared dataset, alone or as one of several workers.

    What a step computes is a function of the settings, the data and the step's number; a run that was killed and
    resumed ends with the same bytes as one that was not, on the same device and number of workers.
    """

    def __init__(
        self,
        family_name: str,
        family_config: Any,
        dataset: PreparedDataset,
        config: TrainConfig,
        directory: Path | str,
        *,
        device: str | torch.device = "auto",
        observer: Observer | None = None,
        world: World | None = None,
        resume_from: Path | str | None = None,
    ) -> None:
        """Build networks and optimisers, and resume from the newest whole checkpoint.

        Args:
            family_name: key in the table of families.
            family_config: the family's typed configuration.
            dataset: what to learn from; its train split.
            config: settings of the run.
            directory: checkpoints are written here; ranks other than 0 only read.
            device: ``auto`` or torch's name.
            observer: told of metrics, pictures and checkpoints.
            world: workers that train together; torch's default process group when left out.
            resume_from: look for checkpoints here too (an uploaded copy).

        Raises:
            SettingsError: the batch does not divide over the workers, or the family cannot make such pictures.
            CheckpointError: the checkpoint found belongs to other settings.
        """
        self.config, self.directory, self.dataset = config, Path(directory), dataset
        self.family_name, self.world = family_name, world or World.current()
        self.observer: Observer = observer or Silent()
        self.device = choose_device(str(device))
        config.check_workers(self.world.size)
        info, shape = dataset.info, ImageShape.of(dataset.info)
        randomness.seed_global(config.seed, -1, 0)  # the same initial weights on every worker
        self.family = build_family(family_name, family_config, shape).to(self.device)
        self.averaged = Averaged({name: self.family.networks[name] for name in self.family.generators})
        self.averaged.networks = {n: net.to(self.device) for n, net in self.averaged.networks.items()}
        self._sides = {"discriminator": self.family.discriminators, "generator": self.family.generators}
        rates = {"discriminator": config.discriminator_lr, "generator": config.generator_lr}
        self.optimisers = {
            side: torch.optim.Adam(self._parameters(side), rates[side], (config.beta1, config.beta2), fused=True)
            for side in self._sides
        }
        self._rates = rates
        self._dtype = choose_precision(config.precision, self.device)
        self._feed = Feed(
            dataset.pixels("train"),
            dataset.labels("train"),
            batch=config.batch,
            seed=config.seed,
            device=self.device,
            part=self.world.part,
            mirror=config.mirror,
        )
        self._watch = Watch(config.collapse_diversity, config.collapse_patience)
        self._start_window()
        self.step = 0
        self.rollbacks = 0
        self._settings = {
            **{f"train.{key}": value for key, value in as_dict(config).items() if key not in FREE_TO_CHANGE},
            **{f"model.{key}": value for key, value in as_dict(family_config).items()},
            "model.family": family_name,
            "dataset": info.digest,
        }
        self._places = [self.directory, *([Path(resume_from)] if resume_from else [])]
        self._resume()

    def run(self, until: int | None = None) -> None:
        """Train up to step ``until`` (``config.steps`` when left out).

        Raises:
            TrainingDivergedError: NaN or collapse after the last rollback; the newest healthy checkpoint is kept.
        """
        config, until = self.config, self.config.steps if until is None else min(until, self.config.steps)
        self._start_window()
        if self.step == 0:
            self._save()  # something to roll back to from the first step on
        while self.step < until:
            batches = self._batches(self.step)
            for side in ("discriminator", "generator"):
                self._update(side, batches)
            self.step += 1
            self._counted += 1
            seen = self.step * config.batch
            self.averaged.update(ema_decay(config.batch, config.ema_half_life_kimg * 1000, seen))
            last = self.step == config.steps
            if self._reports_at(self.step) and not self._report(batches[0]):
                continue
            if self.step % config.sample_every == 0 or last:
                self._draw_grid()
            if self.step % config.checkpoint_every == 0 or last:
                self._save()

    def export(self, directory: Path | str) -> None:
        """Write the averaged generator as an exported generator folder."""
        self.settle()
        info = self.dataset.info
        extra = {"dataset": info.digest, "dataset_name": info.name, "classes": list(info.classes), "step": self.step}
        save_generator(
            directory,
            family_name=self.family_name,
            family=self.family,
            networks=self.averaged.networks,
            extra={**extra, "images_seen": self.step * self.config.batch},
        )

    @torch.inference_mode()
    def sample(self, n: int, seed: int, *, first: int = 0) -> Tensor:
        """Pictures of the averaged generator as it is now: uint8 (n, C, H, W). Call :meth:`settle` first."""
        return to_uint8(self.family.sample(n, seed, first=first, networks=self.averaged.networks))

    def settle(self, batches: int = 16) -> None:
        """Measure the averaged generator's batch-norm statistics on so many batches, so that it can be sampled."""
        standing_statistics(self.family, self.averaged.networks, batches=batches)

    # -- one step ----------------------------------------------------------------------------------------------------

    def _batches(self, step: int) -> list[Batch]:
        images, labels = self._feed(step)
        key = (self.config.seed, self.rollbacks, step)
        randomness.seed_global(self.config.seed, step, self.world.rank)
        if self.config.accumulate == 1:
            return [Batch(real=images, labels=labels, key=key, part=self.world.part)]
        parts = images.chunk(self.config.accumulate)
        label_parts = [None] * len(parts) if labels is None else labels.chunk(len(parts))
        return [
            Batch(real=part, labels=label, key=(*key, index), part=self.world.part, keep=False)
            for index, (part, label) in enumerate(zip(parts, label_parts, strict=True))
        ]

    def _update(self, side: str, batches: list[Batch]) -> None:
        """One update of one side; the other side's parameters take no gradient meanwhile."""
        loss = self.family.discriminator_loss if side == "discriminator" else self.family.generator_loss
        # While the discriminator learns, the generator's graph is recorded for its own update: it stays trainable.
        frozen = self._parameters("discriminator") if side == "generator" else []
        optimiser = self.optimisers[side]
        optimiser.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            for batch in batches:
                with self._autocast():
                    losses = loss(batch, self.step)
                (losses.total / len(batches)).backward()
                self._count(losses, len(batches))
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        self.world.average_gradients(self._parameters(side))
        if self._reports_at(self.step + 1):
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters(side) if p.grad is not None])
            self._sums[f"health/{side}_gradient"] = norm
        optimiser.step()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def _parameters(self, side: str) -> list[nn.Parameter]:
        return [parameter for name in self._sides[side] for parameter in self.family.networks[name].parameters()]

    # -- what is told ------------------------------------------------------------------------------------------------

    def _reports_at(self, step: int) -> bool:
        """Whether metrics are logged and health is checked at ``step``: always before a checkpoint is written."""
        config = self.config
        return step % config.log_every == 0 or step % config.checkpoint_every == 0 or step == config.steps

    def _count(self, losses: Losses, pieces: int) -> None:
        """Add up terms on the device; nothing is read back until they are logged."""
        for name, value in losses.terms.items():
            share = value / pieces
            self._sums[name] = self._sums[name] + share if name in self._sums else share

    def _start_window(self) -> None:
        """Start the window of steps that the next row of metrics is the mean of."""
        self._clock = time.perf_counter()
        self._counted: int = 0
        self._sums: dict[str, Tensor] = {}

    @contextlib.contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Leave out of the rate what is not training."""
        started = time.perf_counter()
        yield
        self._clock += time.perf_counter() - started

    def _report(self, batch: Batch) -> bool:
        """Log the means since the last report; False when the run had to be rolled back."""
        steps = self._counted
        with torch.no_grad(), self._autocast():
            fakes = self.family.sample(len(batch.real), GRID_SEED) if not batch.keep else None
            if fakes is None:
                fakes = batch.once("fakes", lambda: self.family.sample(len(batch.real), GRID_SEED))
            self._sums["health/diversity"] = spread(fakes) / spread(batch.real).clamp_min(1e-8)
        names = sorted(self._sums)
        gauges = {"health/diversity", "health/discriminator_gradient", "health/generator_gradient"}
        row = torch.stack([self._sums[n].float() / (1 if n in gauges else steps) for n in names])
        self.world.average([row])  # the same verdict on every worker
        metrics = dict(zip(names, row.tolist(), strict=True))
        wrong = self._watch.diagnose(metrics)
        metrics["rate/images_per_second"] = steps * self.config.batch / (time.perf_counter() - self._clock)
        metrics["progress/kimg"] = self.step * self.config.batch / 1000
        self._start_window()
        if wrong:
            self._roll_back(wrong)
            return False
        if self.world.rank == 0:
            self.observer.metrics(metrics, self.step)
        return True

    def _draw_grid(self) -> None:
        if self.world.rank == 0:
            with self._off_the_clock():
                self.settle(_GRID_BATCHES)
                self.observer.pictures(self.sample(GRID, GRID_SEED).cpu(), self.step)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _networks(self) -> dict[str, nn.Module]:
        averaged = {f"averaged.{name}": network for name, network in self.averaged.networks.items()}
        return {**{f"network.{name}": network for name, network in self.family.networks.items()}, **averaged}

    def _save(self) -> None:
        """Write a checkpoint: everything that the next step depends on (random numbers keep no state)."""
        with self._off_the_clock():
            path = self._write_checkpoint() if self.world.rank == 0 else None
            self.world.barrier()
            self.observer.checkpoint(path, self.step)

    def _write_checkpoint(self) -> Path:
        tensors = {f"{n}.{key}": v for n, net in self._networks().items() for key, v in net.state_dict().items()}
        for side, optimiser in self.optimisers.items():
            for index, values in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{side}.{index}.{key}": value for key, value in values.items()}
        state = {"settings": self._settings, "rollbacks": self.rollbacks, "poor": self._watch.poor}
        path = checkpoints.save_checkpoint(self.directory, self.step, tensors, state)
        # A rollback needs a healthy one, however many were written while the run was already suspected of a collapse.
        checkpoints.prune_checkpoints(self.directory, self.config.keep_checkpoints, _is_healthy)
        return path

    def _newest(
        self, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
    ) -> checkpoints.Checkpoint | None:
        found = [checkpoints.latest_checkpoint(place, accept) for place in self._places]
        return max((c for c in found if c is not None), key=lambda c: c.step, default=None)

    def _resume(self) -> None:
        newest = self._newest()
        if newest is None:
            return
        checkpoints.refuse_other_settings(newest.state["settings"], self._settings, newest.path)
        self._load(newest)
        self.rollbacks, self._watch.poor = newest.state["rollbacks"], newest.state["poor"]
        self._slow_down()
        if self.world.rank == 0:
            log.info("Resuming at step %d from %s.", self.step, newest.path)

    def _load(self, saved: checkpoints.Checkpoint) -> None:
        for name, network in self._networks().items():
            prefix = f"{name}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
            )
        for side, optimiser in self.optimisers.items():
            parameters = self._parameters(side)
            values: dict[int, dict[str, Tensor]] = {}
            for key, tensor in saved.tensors.items():
                if key.startswith(f"optimiser.{side}."):
                    index, name = key.removeprefix(f"optimiser.{side}.").split(".")
                    if tensor.dim():
                        # Fused kernels walk weights and moments by address: both must lie in memory alike.
                        tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
                    values.setdefault(int(index), {})[name] = tensor
            optimiser.load_state_dict({**optimiser.state_dict(), "state": values})
        self.step = saved.step

    def _roll_back(self, wrong: str) -> None:
        """Go back to the newest healthy checkpoint with half the learning rate, or give up with a clear message."""
        saved = self._newest(_is_healthy)
        place = f"The newest healthy checkpoint is {saved.path}." if saved else "There is no healthy checkpoint."
        if self.rollbacks >= self.config.max_rollbacks or saved is None:
            raise TrainingDivergedError(
                f"Training cannot be saved at step {self.step}: {wrong}, after {self.rollbacks} rollbacks. {place} "
                "Lower train.generator_lr and train.discriminator_lr, or let the tune stage find them."
            )
        self.rollbacks, self._watch.poor = self.rollbacks + 1, 0
        log.warning(
            "Step %d: %s. Rolling back to step %d with %g times the learning rate (rollback %d of %d).",
            *(self.step, wrong, saved.step, 0.5**self.rollbacks, self.rollbacks, self.config.max_rollbacks),
        )
        self._load(saved)
        self._slow_down()
        self._start_window()
        self.world.barrier()  # every worker has read its checkpoint
        if self.world.rank == 0:
            checkpoints.drop_checkpoints_after(self.directory, self.step)

    def _slow_down(self) -> None:
        for side, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._rates[side] * 0.5**self.rollbacks


def _is_healthy(state: Mapping[str, Any]) -> bool:
    """Whether a checkpoint with this state was written while nothing was wrong."""
    return state["poor"] == 0
