"""The training loop: two losses, two optimisers, two separate updates, whatever the family."""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_core import randomness
from gan_core.augment.augmenter import Augmenter
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, Batch, Family, ImageShape, Phase, Side, build_family, require
from gan_core.families.noise import NoiseFamily
from gan_core.families.translation import TranslationFamily
from gan_core.images.tensors import from_uint8, to_uint8
from gan_core.inference.generator import SAMPLE_BATCH, describe, save_generator
from gan_core.precision import choose_device, choose_precision, out_of_memory
from gan_core.schedule import cosine
from gan_core.training.adam import Adam
from gan_core.training.backends import compile_options, cudnn_kernels
from gan_core.training.config import TrainConfig
from gan_core.training.ema import AveragedNetworks, ema_decay
from gan_core.training.feed import Feed, preview_batch
from gan_core.training.health import diversity
from gan_core.training.hyperparameters import earlier_defaults, hyperparameters
from gan_core.training.metrics_window import MetricsWindow
from gan_core.training.observer import Observer
from gan_core.training.quality import BestGenerator, QualityMonitor
from gan_core.training.rates import Rates
from gan_core.training.recovery import Recovery
from gan_core.training.state import State
from gan_core.training.world import World

log = logging.getLogger(__name__)

_REAL_RIGHT = "health/real_right"
_GRID_BATCHES = 4
"""Batches that a grid's statistics are measured on: enough to look at, and a quarter of the time."""


class Trainer:
    """Trains one family on one prepared dataset, alone or as one of several workers.

    What a step computes is a function of the settings, the data and the step's number; a run that was killed and
    resumed ends with the same bytes as one that was not, on the same device and number of workers, and up to rounding where
    networks are compiled.
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
            observer: gets metrics, pictures and checkpoints.
            world: workers that train together; torch's default process group when left out.
            resume_from: look for checkpoints here too (an uploaded copy).

        Raises:
            SettingsError: the batch does not divide over the workers, or the family cannot make such pictures, or not
                from data of this kind.
            CheckpointError: the checkpoint found belongs to other settings.
        """
        self.config, self.directory, self.dataset = config, Path(directory), dataset
        self.world = world or World.current()
        self.observer: Observer = observer or Observer()
        self.device = choose_device(str(device))
        config.check_workers(self.world.size)
        self._has_graphs = config.compile and self.device.type == "cuda"
        self.family = self._build_family(family_name, family_config)
        self.averaged = AveragedNetworks({name: self.family.networks[name] for name in self.family.generators})
        self.augmenter = Augmenter(config.augment, dataset.info.splits["train"], fused=self._has_graphs)
        self.augmenter.to(self.device)
        self._updates = self.family.updates()
        self._sides = {"discriminator": self.family.discriminators, "generator": self.family.generators}
        # Once: to walk through networks for them at each update takes longer than to start a kernel.
        self._parameters = {
            side: [parameter for name in names for parameter in self.family.networks[name].parameters()]
            for side, names in self._sides.items()
        }
        self.optimisers = {side: Adam(self._parameters[side], config.learning_rates[side]) for side in self._sides}
        self._rates = Rates(config, self.optimisers, self._updates)
        self._dtype = choose_precision(config.precision, self.device)
        self._feed = self._build_feed()
        # How well pictures are translated shows on some that were not learnt from.
        split = "test" if self.translates and dataset.info.splits.get("test") else "train"
        self._preview_batch = preview_batch(dataset, split, self.device)
        self._best = BestGenerator(self.directory / "best")
        self._quality = self._build_quality(split) if config.fid_every else None
        self._window = MetricsWindow()
        self._recovery = self._build_recovery(Path(resume_from) if resume_from else None)
        self.step = self._recovery.resume()
        self._set_rates()

    def run(self, until: int | None = None) -> None:
        """Train up to step ``until`` (``config.steps`` when left out).

        Raises:
            TrainingDivergedError: NaN or collapse after the last rollback; the newest healthy checkpoint is kept.
        """
        config = self.config
        until = config.steps if until is None else min(until, config.steps)
        with cudnn_kernels(exact=not config.compile):
            self._window.start()
            if self.step == 0:
                self._begin()
            while self.step < until:
                self._set_rates()
                with self._enough_memory():
                    batches = self._train_step()
                self.step += 1
                self._window.steps += 1
                self._update_average()
                if self._reports_at(self.step) and not self._report(batches[0]):
                    continue  # it was rolled back
                if self._is_due(config.sample_every):
                    self._draw_grid()
                if self._is_due(config.checkpoint_every):
                    self._save()

    def export(self, directory: Path | str) -> None:
        """Write the averaged generator as an exported generator folder: the last, or with ``keep_best`` the best."""
        if self.config.keep_best and self._best.figure:
            self._best.copy_to(directory)
            return
        if self.config.keep_best:
            log.warning("keep_best: this run has measured no FID, so the last generator is exported, not the best.")
        self.update_statistics()
        self._write_generator(directory)

    @torch.inference_mode()
    def sample(self, n: int, seed: int, *, first: int = 0) -> Tensor:
        """Pictures of the averaged generator as it is now: uint8 (n, C, H, W). Call :meth:`update_statistics` first."""
        family, networks, parts = require(self.family, NoiseFamily), self.averaged.networks, []
        for start in range(0, n, SAMPLE_BATCH):
            count = min(SAMPLE_BATCH, n - start)
            parts.append(to_uint8(family.sample(count, seed, first=first + start, networks=networks)))
        return torch.cat(parts)

    @property
    def translates(self) -> bool:
        """Whether it makes pictures from pictures; from noise otherwise."""
        return self.family.can(TranslationFamily)

    @property
    def directions(self) -> tuple[tuple[int | None, int | None], ...]:
        """What the generators translate: (from domain, to domain); none where they make images from noise."""
        return self.family.directions

    @torch.inference_mode()
    def translate(self, images: Tensor, target: int | None = None, seed: int = 0, *, first: int = 0) -> Tensor:
        """Pictures uint8 (N, C', H, W) translated by the averaged generators as they are now: uint8 (N, C, H, W)."""
        family, networks = require(self.family, TranslationFamily), self.averaged.networks
        return to_uint8(
            family.translate(from_uint8(images.to(self.device)), target, seed, first=first, networks=networks)
        )

    @torch.inference_mode()
    def preview(self) -> tuple[Tensor, int]:
        """Pictures uint8 (n, C, H, W) that show how far the averaged generators are, and how many make a row."""
        pictures, columns = self.family.preview(self._preview_batch, self.averaged.networks)
        return to_uint8(pictures), columns

    def update_statistics(self, batches: int = 16) -> None:
        """Make the averaged generator ready to be sampled (:meth:`Family.update_statistics`)."""
        self.family.update_statistics(self.averaged.networks, batches=batches)

    # -- construction ------------------------------------------------------------------------------------------------

    def _build_family(self, name: str, family_config: Any) -> Family:
        """The family on the device with the same initial weights on every worker; raises SettingsError."""
        kind, augment = FAMILIES[name], self.config.augment.kind
        kind.check_data(self.dataset.info, family_config)
        if augment != "none" and not kind.augmentable:
            raise SettingsError(
                f"train.augment.kind: {name} cannot use {augment}, which would move a picture and leave its partner. Set it "
                "to none; train.jitter and train.mirror change both alike."
            )
        shares = self.dataset.class_shares("train") if kind.is_conditional(family_config) else ()
        randomness.seed_global(self.config.seed, -1, 0)
        family = build_family(name, family_config, ImageShape.of(self.dataset.info), class_shares=shares)
        family.to(self.device)
        if self.config.compile:
            family.compile(**compile_options(self.device))
        return family

    def _build_feed(self) -> Feed:
        dataset, config = self.dataset, self.config
        return Feed(
            dataset.pixels("train"),
            dataset.labels("train"),
            conditions=dataset.conditions("train"),
            unpaired=dataset.info.kind == "unpaired",
            batch=config.batch,
            seed=config.seed,
            device=self.device,
            part=self.world.part,
            mirror=config.mirror,
            jitter=config.jitter,
        )

    def _build_quality(self, split: str) -> QualityMonitor | None:
        """What measures the FID against ``split``, on rank 0."""
        count, translates = self.config.fid_samples, self.translates
        return self.world.on_rank_zero(
            lambda: QualityMonitor(self.dataset, split, count, self.device, translates=translates)
        )

    def _build_recovery(self, elsewhere: Path | None) -> Recovery:
        return Recovery(
            State(self.family, self.averaged, self.augmenter, self.optimisers),
            self.config,
            self.directory,
            settings=hyperparameters(self.config, self.family, self.dataset.info.digest),
            defaults=earlier_defaults(self.family),
            world=self.world,
            elsewhere=elsewhere,
        )

    # -- one step ----------------------------------------------------------------------------------------------------

    @property
    def rollbacks(self) -> int:
        """How often this run was rolled back to a healthy checkpoint; each halved its learning rates."""
        return self._recovery.rollbacks

    @property
    def images_seen(self) -> int:
        """Real images that the discriminator has been shown."""
        return self.step * self._images_a_step

    @property
    def _images_a_step(self) -> int:
        return self.config.batch * self.config.discriminator_steps

    def _progress(self) -> float:
        """How far the run is through its burn-in, 0 to 1."""
        over = self.config.burn_in_kimg * 1000
        return min(self.images_seen / over, 1.0) if over else 1.0

    def _begin(self) -> None:
        """Remove what an earlier run left, and write something to roll back to from the first step on."""
        if self.world.rank == 0:
            self._best.forget()
        self._save()

    def _train_step(self) -> list[Batch]:
        """One step: the discriminator's updates, each on a batch of its own, and the generator's on the last of them."""
        rounds = self.config.discriminator_steps
        randomness.seed_global(self.config.seed, self.step, self.world.rank)
        for turn in range(self.step * rounds, (self.step + 1) * rounds):
            batches = self._batches(turn, last=(turn + 1) % rounds == 0)
            self._update("discriminator", batches, turn)
        self._update("generator", batches, turn)
        return batches

    def _update_average(self) -> None:
        """Move the averaged generators towards the ones just updated; the half-life grows over the burn-in."""
        half_life = cosine(0, self.config.ema_half_life_kimg, self._progress()) * 1000
        self.averaged.update(ema_decay(self._images_a_step, half_life, self.images_seen))

    def _batches(self, turn: int, *, last: bool) -> list[Batch]:
        """The micro-batches of one round; ``turn`` counts rounds over the whole run."""
        if self._has_graphs:
            # What the compiled networks of one round give lives until the next: the generator's update needs the images that
            # the discriminator's made, and without a mark the first call after a backward pass would take their memory.
            torch.compiler.cudagraph_mark_step_begin()
        images, labels, condition = self._feed(turn)
        key = (self.config.seed, self.rollbacks, turn)
        progress = self._progress()
        count = self.config.accumulate
        parts = images.chunk(count)
        label_parts = [None] * count if labels is None else labels.chunk(count)
        condition_parts = [None] * count if condition is None else condition.chunk(count)
        return [
            Batch(
                real=part,
                labels=label,
                condition=source,
                key=key if count == 1 else (*key, index),
                part=self.world.part,
                progress=progress,
                augmentation=self.augmenter,
                # The generator's graph is for its own update, which only the last round is followed by.
                keep=count == 1 and last,
            )
            for index, (part, label, source) in enumerate(zip(parts, label_parts, condition_parts, strict=True))
        ]

    def _update(self, side: Side, batches: list[Batch], turn: int) -> None:
        """All updates of one side that are due in the round ``turn``."""
        for phases in self._updates:
            if phases[0].side == side and self.step % phases[0].every == 0:
                self._update_by(phases, batches, turn)

    def _update_by(self, phases: tuple[Phase, ...], batches: list[Batch], turn: int) -> None:
        """One update of one side; the other side's parameters take no gradient meanwhile."""
        side = phases[0].side
        # While the discriminator learns, the generator's graph is recorded for its own update: it stays trainable.
        frozen = self._parameters["discriminator"] if side == "generator" else []
        optimiser = self.optimisers[side]
        optimiser.zero_grad()
        judged_right = []
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            for phase, batch in itertools.product(phases, batches):
                with contextlib.nullcontext() if phase.full_precision else self._autocast():
                    losses = phase.loss(batch, self.step)
                (losses.total / len(batches)).backward()
                self._window.add(losses, len(batches))
                judged_right += [losses.scalars[_REAL_RIGHT]] if _REAL_RIGHT in losses.scalars else []
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        self.world.average_gradients(self._parameters[side])
        if phases[0].name == side and self._reports_at(self.step + 1):
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters[side] if p.grad is not None])
            self._window.gauge(f"health/{side}_gradient", norm)
        optimiser.step()
        if judged_right:
            self.augmenter.adapt(torch.stack(judged_right).mean(), self.config.batch, turn)

    @contextlib.contextmanager
    def _enough_memory(self) -> Iterator[None]:
        """Say what helps where a step needs more memory than there is."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            config = self.config
            message = (
                f"train.batch: step {self.step + 1} of {self.family.name} needs more memory than the {self.device} has, with "
                f"{config.batch} images in {config.accumulate} micro-batch(es) on {self.world.size} worker(s). Double "
                f"train.accumulate, or halve train.batch. ({str(error).split('. ')[0]})"
            )
            if self.world.size > 1:
                # The others are waiting for this worker: only an error of its own makes who started them end them all.
                error.add_note(message)
                raise
            raise SettingsError(message) from error

    def _set_rates(self) -> None:
        self._rates.set(self.step, progress=self._progress(), rollbacks=self.rollbacks)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    # -- reports ------------------------------------------------------------------------------------------------

    def _is_due(self, every: int) -> bool:
        """Whether what happens at every so many steps, and at the last one, happens now."""
        return self.step % every == 0 or self.step == self.config.steps

    def _reports_at(self, step: int) -> bool:
        """Whether metrics are logged and health is checked at ``step``: always before a checkpoint is written."""
        config = self.config
        often = step % config.log_every == 0 or step % config.checkpoint_every == 0 or step == config.steps
        return often or self._measures_at(step)

    def _measures_at(self, step: int) -> bool:
        """Whether the FID is measured at ``step``."""
        config = self.config
        return config.fid_every > 0 and (step % config.fid_every == 0 or step == config.steps)

    def _report(self, batch: Batch) -> bool:
        """Log the means since the last report; False when the run had to be rolled back."""
        with torch.no_grad(), self._autocast():
            pairs = self.family.diversity_pairs(batch)
        self._window.gauge("health/diversity", diversity(pairs))
        if self.config.augment.kind == "ada":
            self._window.gauge("augment/strength", self.augmenter.strength.detach().clone())
        names, row = self._window.means()
        self.world.average([row])  # the same verdict on every worker
        metrics = dict(zip(names, row.tolist(), strict=True))
        wrong = self._recovery.diagnose(metrics)
        metrics["rate/images_per_second"] = self._window.steps * self._images_a_step / self._window.seconds()
        metrics["progress/kimg"] = self.images_seen / 1000
        self._window.start()
        if wrong:
            self.step = self._recovery.roll_back(self.step, wrong)
            self._window.start()
            return False
        if self._measures_at(self.step):
            metrics["quality/fid"] = self.world.on_rank_zero(self._measure)
        if self.world.rank == 0:
            self.observer.metrics(metrics, self.step)
        return True

    def _measure(self) -> float:
        """FID of the averaged generator as it is now, by rank 0; it is kept if none was better."""
        assert self._quality is not None
        with self._window.off_the_clock():
            self.update_statistics()
            figure = self._quality.measure(self, self.step)
            if self.config.keep_best and self._best.is_beaten_by(figure):
                self._write_generator(self._best.directory, fid=figure.as_dict())
            self.observer.figure(figure, self.step)
        return figure.value

    def _draw_grid(self) -> None:
        if self.world.rank == 0:
            with self._window.off_the_clock():
                self.update_statistics(_GRID_BATCHES)
                pictures, columns = self.preview()
                self.observer.pictures(pictures.cpu(), self.step, columns)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _lineage(self) -> dict[str, Any]:
        """What a generator was made from."""
        info = self.dataset.info
        domains = {"classes": list(info.classes), "attributes": list(info.attributes)}
        return {"dataset": info.digest, "dataset_name": info.name, **domains, "images_seen": self.images_seen}

    def _save(self) -> None:
        """Write a checkpoint: everything that the next step depends on."""
        with self._window.off_the_clock():
            path = None
            if self.world.rank == 0:
                generator = describe(self.family, self._lineage())
                path = self._recovery.save(self.step, generator)
            self.world.barrier()
            self.observer.checkpoint(path, self.step)

    def _write_generator(self, directory: Path | str, **extra: Any) -> None:
        """The averaged generator as an exported generator folder; call :meth:`update_statistics` first."""
        save_generator(
            directory,
            family=self.family,
            networks=self.averaged.networks,
            extra={**self._lineage(), "step": self.step, **extra},
        )
