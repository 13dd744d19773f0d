"""The training loop of all families: separate updates of discriminator and generator, each with its own optimiser."""

import contextlib
import itertools
import logging
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan_core import randomness
from gan_core.augment.augmenter import Augmenter
from gan_core.data import PreparedDataset
from gan_core.errors import SettingsError
from gan_core.families import FAMILIES, Batch, Family, ImageShape, Phase, Side, build_family
from gan_core.families.translation import TranslationFamily
from gan_core.memory import is_out_of_memory
from gan_core.precision import choose_device, choose_precision
from gan_core.schedule import cosine
from gan_core.training.adam import Adam
from gan_core.training.backends import compile_options, cudnn_kernels
from gan_core.training.captured import CapturedSteps, CaptureError, Prepared, refusal
from gan_core.training.config import GIB, TrainConfig
from gan_core.training.ema import AveragedNetworks, ema_decay
from gan_core.training.exports import Exports, Moment
from gan_core.training.feed import Feed
from gan_core.training.generator import AveragedGenerator
from gan_core.training.health import diversity
from gan_core.training.hyperparameters import earlier_defaults, hyperparameters
from gan_core.training.metrics_window import MetricsWindow
from gan_core.training.observer import Observer
from gan_core.training.quality import QualityMonitor
from gan_core.training.rates import LearningRateSchedule
from gan_core.training.recovery import Recovery
from gan_core.training.start import Start, first_state, frozen_parameters
from gan_core.training.state import State
from gan_core.training.stream import StreamFeed, streaming_reason
from gan_core.training.world import World

log = logging.getLogger(__name__)

_REAL_RIGHT = "health/real_right"
_GRID_BATCHES = 4
"""Number of batches to measure batch-norm statistics on for a grid: fewer than for an export, to save time."""


class Trainer:
    """Trains a family on a prepared dataset, alone or as one of several workers.

    The result of a step is a function of settings, data and step number. On the same device and number of workers, a run
    that was killed and resumed ends with the same bytes as an undisturbed run; with compiled networks, it is equal up to
    rounding.
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
        start: Start | None = None,
    ) -> None:
        """Build networks and optimisers, and resume from the newest complete checkpoint.

        Args:
            family_name: name of the family, a key of ``FAMILIES``.
            family_config: settings of the family.
            dataset: the prepared dataset; its train split is used for training.
            config: settings of the run.
            directory: folder for checkpoints; only rank 0 writes.
            device: ``auto``, or the name of a device in torch.
            observer: receives metrics, pictures and checkpoints.
            world: the workers that train together; None uses torch's default process group.
            resume_from: an additional folder to read checkpoints from (an uploaded copy).
            start: the run that this one starts from (``train.start_from``); None starts from random weights. Rank 0 reads its
                files, unless this run has a checkpoint.

        Raises:
            SettingsError: the number of steps is not decided yet (:mod:`gan_core.training.length`), the run cannot start from
                ``start``, the batch cannot be split evenly over the workers, or the family does not support the size of the
                pictures or the kind of the data.
            CheckpointError: a checkpoint was found whose hyperparameters differ, or none of those found fits this run; or the
                files of ``start`` are missing or damaged.
            DataError: there are too few pictures.
        """
        if config.minutes is not None:
            raise SettingsError(
                "train.minutes: a trainer needs a number of steps. Let gan_core.training.length.decide_length measure it."
            )
        if reason := streaming_reason(dataset, config):
            dataset = dataset.streaming()
        self.config, self.directory, self.dataset = config, Path(directory), dataset
        self.world, self.start = world or World.current(), start
        self.observer: Observer = observer or Observer()
        self.device = choose_device(str(device))
        config.check_workers(self.world.size)
        if reason and self.world.rank == 0:
            log.info("Streaming the training data: %s.", reason)
        refused = refusal(self.device, self.world) if config.compile == "step" else None
        if refused:
            log.info("train.compile: step: steps are compiled, but not captured: %s.", refused)
        captures = config.compile == "step" and refused is None
        fused = bool(config.compile) and self.device.type == "cuda"
        self._uses_cuda_graphs = fused and not captures
        """Whether each call of a compiled network is a CUDA graph."""
        self.family = self._build_family(family_name, family_config)
        if config.compile:
            self.family.compile(**compile_options(self.device, captured=captures))
        self.averaged = AveragedNetworks({name: self.family.networks[name] for name in self.family.generators})
        self.augmenter = Augmenter(config.augment, dataset.info.splits["train"], fused=fused)
        self.augmenter.to(self.device)
        self._updates = self.family.updates()
        self._sides = {"discriminator": self.family.discriminators, "generator": self.family.generators}
        # Collected once, because iterating over a network's parameters takes longer than launching a kernel.
        self._parameters = {
            side: [parameter for name in names for parameter in self.family.networks[name].parameters()]
            for side, names in self._sides.items()
        }
        self.optimisers = {side: Adam(self._parameters[side], config.learning_rates[side]) for side in self._sides}
        self._freeze()
        self._rates = LearningRateSchedule(config, self.optimisers, self._updates)
        self._dtype = choose_precision(config.precision, self.device)
        self._feed = self._build_feed()
        self.generator = AveragedGenerator(self.family, self.averaged, dataset, self.device)
        """Draws pictures with the averaged networks."""
        self._state = State(self.family, self.averaged, self.augmenter, self.optimisers)
        self._exports = Exports(
            self.family,
            self.generator,
            self._state,
            self.augmenter,
            config,
            self.directory,
            info=dataset.info,
            parent=start.record if start else None,
        )
        self._quality = self._build_quality() if config.fid_every else None
        self._window = MetricsWindow()
        self._captured = self._capture_steps() if captures else None
        self._recovery = self._build_recovery(Path(resume_from) if resume_from else None)
        self.step = self._recovery.resume()
        if start and not self._recovery.resumed:
            self._load_start(start)
        self._set_rates()

    def run(self, until: int | None = None) -> None:
        """Train up to step ``until``; None means ``config.steps``.

        Raises:
            TrainingDivergedError: NaN or mode collapse after the last rollback; the newest healthy checkpoint is kept.
            SettingsError: a step needs more memory than the device has.
        """
        config = self.config
        until = config.steps if until is None else min(until, config.steps)
        with cudnn_kernels(deterministic=not config.compile):
            self._window.start()
            if self.step == 0:
                self._begin()
            while self.step < until:
                self._set_rates()
                with self._explain_out_of_memory():
                    batches = self._train_step()
                self.step += 1
                self._window.steps += 1
                self._update_average()
                due = self._is_due(config.checkpoint_every)
                early = not due and self.observer.wants_checkpoint(self.step)
                if (early or self._reports_at(self.step)) and not self._report(batches[0]):
                    continue  # the run has been rolled back
                if self._is_due(config.sample_every):
                    self._draw_grid()
                if due or early:
                    self._save()

    def export_start(self, directory: Path | str) -> None:
        """Write what a later run needs to start from this one; rank 0 calls it. See :meth:`Exports.write_start`."""
        self._exports.write_start(directory, self._moment())

    def export(self, directory: Path | str) -> None:
        """Export the averaged generator, or the best one with ``keep_best``; see :meth:`Exports.write_generator`."""
        self._exports.write_generator(directory, self._moment())

    # -- construction ------------------------------------------------------------------------------------------------

    def _build_family(self, name: str, family_config: Any) -> Family:
        """Build the family on the device, with the same initial weights on every worker; raises SettingsError."""
        kind, augment = FAMILIES[name], self.config.augment.kind
        kind.check_data(self.dataset.info, family_config)
        if augment != "none" and not kind.augmentable:
            raise SettingsError(
                f"train.augment.kind: {name} cannot use {augment}, which would transform only one picture of a pair. Set it "
                "to none. To augment both pictures equally, use train.jitter and train.mirror."
            )
        shares = self.dataset.class_shares("train") if kind.is_conditional(family_config) else ()
        randomness.seed_global(self.config.seed, -1, 0)
        family = build_family(name, family_config, ImageShape.of(self.dataset.info), class_shares=shares)
        return family.to(self.device)

    def _build_feed(self) -> Feed | StreamFeed:
        dataset, config = self.dataset, self.config
        # Pictures made from noise may be of either domain; they are compared with the pictures of both.
        unpaired = dataset.info.kind == "unpaired" and self.family.can(TranslationFamily)
        common: dict[str, Any] = {
            "batch": config.batch,
            "seed": config.seed,
            "device": self.device,
            "part": self.world.part,
            "mirror": config.mirror,
            "jitter": config.jitter,
            "unpaired": unpaired,
        }
        if dataset.streamed:
            # Only rank 0 reads the metadata of all shards.
            groups = self.world.broadcast(self.world.on_rank_zero(lambda: dataset.row_groups("train")))
            return StreamFeed(dataset, groups, memory=int(config.stream_gib * GIB), **common)
        pixels: Any = dataset.pixels("train")
        conditions: Any = dataset.conditions("train")
        return Feed(
            pixels,
            dataset.labels("train"),
            conditions=conditions,
            **common,
        )

    def _capture_steps(self) -> CapturedSteps:
        """Prepare to train steps as graphs."""
        if self.config.burn_in_kimg and self.config.final_beta2 is not None:
            log.info("train.compile: step: steps are captured after the burn-in, during which beta2 changes with each.")
        for optimiser in self.optimisers.values():
            optimiser.keep_rate_on_device()
        return CapturedSteps(self._play, self._feed, self._window, self.device)

    def _freeze(self) -> None:
        """Exclude the first layers of the discriminators from training (FreezeD); raises SettingsError if it has no more."""
        for parameter in frozen_parameters(self.family, self.config.freeze_discriminator):
            parameter.requires_grad_(False)
        # Without a gradient, Adam leaves them alone.
        self._trained = {
            side: [parameter for parameter in parameters if parameter.requires_grad]
            for side, parameters in self._parameters.items()
        }

    def _load_start(self, start: Start) -> None:
        """Replace the initial state by that of ``start``, adapted to this run."""
        state = self._state
        info = self.dataset.info
        tensors = self.world.on_rank_zero(
            lambda: first_state(
                start,
                state,
                self.family,
                self.augmenter,
                classes=tuple(info.classes),
                optimisers=self.config.start_optimisers,
                freeze=self.config.freeze_discriminator,
            )
        )
        state.load(self.world.broadcast_tensors(tensors if self.world.rank == 0 else None, self.device))
        if self.world.rank == 0:
            log.info("Starting from %s, which has seen %d images.", start.name, start.images_seen)

    def measure_fid_seconds(self) -> tuple[float, float]:
        """Estimate the seconds of an FID during training, and those of the real pictures that the first one measures, too.

        Rank 0 calls it. Both are 0 if training measures no FID.
        """
        if self._quality is None:
            return 0.0, 0.0
        began = time.perf_counter()
        self.generator.update_statistics()
        fakes, reals = self._quality.estimate_seconds(self.generator)
        return time.perf_counter() - began + fakes, reals

    def _build_quality(self) -> QualityMonitor | None:
        """Build the monitor that measures FIDs, on rank 0 only."""
        count, generator = self.config.fid_samples, self.generator
        return self.world.on_rank_zero(
            lambda: QualityMonitor(self.dataset, generator.split, count, self.device, translates=generator.translates)
        )

    def _build_recovery(self, resume_from: Path | None) -> Recovery:
        return Recovery(
            self._state,
            self.config,
            self.directory,
            settings=hyperparameters(
                self.config,
                self.family,
                self.dataset.info.digest,
                streamed=self.dataset.streamed,
                start=self.start.digest if self.start else None,
            ),
            defaults=earlier_defaults(self.family),
            world=self.world,
            resume_from=resume_from,
        )

    # -- one step ----------------------------------------------------------------------------------------------------

    @property
    def rollbacks(self) -> int:
        """Number of rollbacks to a healthy checkpoint; each one halves the learning rates."""
        return self._recovery.rollbacks

    @property
    def images_seen(self) -> int:
        """Number of real images that the discriminator has seen."""
        return self.step * self._images_per_step

    @property
    def _images_per_step(self) -> int:
        return self.config.batch * self.config.discriminator_steps

    @property
    def _images_seen_in_all(self) -> int:
        """:attr:`images_seen`, and those of the runs that this one started from."""
        return self.images_seen + (self.start.images_seen if self.start else 0)

    def _progress(self) -> float:
        """Share of the burn-in that is done, 0 to 1. A run that starts from another goes on with the other's burn-in."""
        over = self.config.burn_in_kimg * 1000
        return min(self._images_seen_in_all / over, 1.0) if over else 1.0

    def _warmth(self) -> float:
        """Share of the warm-up that is done after the next step, 0 to 1."""
        over = self.config.warm_up_kimg * 1000
        return min((self.images_seen + self._images_per_step) / over, 1.0) if over else 1.0

    def _begin(self) -> None:
        """Delete the best generator of an earlier run, write a first checkpoint to roll back to, and draw the first grid."""
        if self.world.rank == 0:
            self._exports.forget()
        self._save()
        if self.config.sample_every <= self.config.steps:
            self._draw_grid()

    def _train_step(self) -> list[Batch]:
        """One step; returns the micro-batches of its last round."""
        count = self.config.discriminator_steps
        rounds = range(self.step * count, (self.step + 1) * count)
        randomness.seed_global(self.config.seed, self.step, self.world.rank)
        if self._captured is not None:
            try:
                return self._captured.run(self._kind(rounds), self.step, rounds, self._progress())
            except CaptureError as error:
                log.warning("train.compile: step: steps are compiled, but not captured: %s.", error)
                self._captured, self._uses_cuda_graphs = None, self.device.type == "cuda"
                self.family.compile(**compile_options(self.device))
        return self._play(rounds)

    def _kind(self, rounds: range) -> Hashable | None:
        """What decides which operations a step consists of; None if it must not be captured."""
        if self.config.final_beta2 is not None and self._progress() < 1:
            return None  # the optimisers' kernel takes beta2 as a number, which a graph would repeat
        due = tuple(self.step % phases[0].every == 0 for phases in self._updates)
        return due, tuple(self.augmenter.adjusts(turn) for turn in rounds)

    def _play(self, rounds: Sequence[int], prepared: Sequence[Prepared] | None = None) -> list[Batch]:
        """Update the discriminator in each round, on a new batch, then the generator on the last batch.

        ``prepared``: what the feed has prepared for each round. What differs between steps must be part of :meth:`_kind`, or
        lie in memory that :class:`CapturedSteps` refreshes: else a captured step would repeat it.
        """
        for place, turn in enumerate(rounds):
            given = prepared[place] if prepared else None
            batches = self._batches(turn, given, last=place + 1 == len(rounds))
            self._update("discriminator", batches, turn)
        self._update("generator", batches, turn)
        return batches

    def _update_average(self) -> None:
        """Move the averaged generators towards the updated ones; the half-life grows over the burn-in."""
        half_life = cosine(0, self.config.ema_half_life_kimg, self._progress()) * 1000
        self.averaged.update(ema_decay(self._images_per_step, half_life, self._images_seen_in_all))

    def _batches(self, turn: int, prepared: Prepared | None = None, *, last: bool) -> list[Batch]:
        """The micro-batches of round ``turn``; a round is one update of the discriminator, counted over the whole run."""
        if self._uses_cuda_graphs:
            # Outputs of compiled networks must stay valid for the whole round, because the generator's update reuses the
            # images of the discriminator's. Without this mark, CUDA graphs would reuse their memory after a backward pass.
            torch.compiler.cudagraph_mark_step_begin()
        images, labels, condition = self._feed.finish(prepared or self._feed.prepare(turn), turn)
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
                # The generator's graph is needed only in the last round, which the generator's update follows.
                keep=count == 1 and last,
            )
            for index, (part, label, source) in enumerate(zip(parts, label_parts, condition_parts, strict=True))
        ]

    def _update(self, side: Side, batches: list[Batch], turn: int) -> None:
        """Apply all updates of one side that are due in round ``turn``."""
        for phases in self._updates:
            if phases[0].side == side and self.step % phases[0].every == 0:
                self._apply_update(phases, batches, turn)

    def _apply_update(self, phases: tuple[Phase, ...], batches: list[Batch], turn: int) -> None:
        """Apply one update of one side. During the generator's, the discriminator's parameters require no gradient."""
        side = phases[0].side
        # The generator's parameters always require gradients: the discriminator's update records the graph for it.
        frozen = self._trained["discriminator"] if side == "generator" else []
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
        self.world.average_gradients(self._trained[side])
        if phases[0].name == side and (self._captured is not None or self._reports_at(self.step + 1)):
            norm = nn.utils.get_total_norm([p.grad for p in self._trained[side] if p.grad is not None])
            self._window.gauge(f"health/{side}_gradient", norm)
        optimiser.step()
        if judged_right:
            self.augmenter.adapt(torch.stack(judged_right).mean(), self.config.batch, turn)

    @contextlib.contextmanager
    def _explain_out_of_memory(self) -> Iterator[None]:
        """Turn an out-of-memory error into one that names the settings to change."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            config = self.config
            message = (
                f"train.batch: step {self.step + 1} of {self.family.name} needs more memory than the {self.device} has, with "
                f"{config.batch} images in {config.accumulate} micro-batch(es) on {self.world.size} worker(s). Double "
                f"train.accumulate, or halve train.batch. ({str(error).split('. ')[0]})"
            )
            if self.world.size > 1:
                # The other workers wait for this one; their launcher stops them only if this one fails by its original error.
                error.add_note(message)
                raise
            raise SettingsError(message) from error

    def _set_rates(self) -> None:
        self._rates.set(self.step, progress=self._progress(), rollbacks=self.rollbacks, warmth=self._warmth())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    # -- reports ------------------------------------------------------------------------------------------------

    def _is_due(self, every: int) -> bool:
        """Whether this is a multiple of ``every`` steps, or the last step."""
        return self.step % every == 0 or self.step == self.config.steps

    def _reports_at(self, step: int) -> bool:
        """Whether to log metrics and check health at ``step``; always before a checkpoint is written."""
        config = self.config
        often = step % config.log_every == 0 or step % config.checkpoint_every == 0 or step == config.steps
        return often or self._measures_at(step)

    def _measures_at(self, step: int) -> bool:
        """Whether to measure the FID at ``step``."""
        config = self.config
        return config.fid_every > 0 and (step % config.fid_every == 0 or step == config.steps)

    def _report(self, batch: Batch) -> bool:
        """Log the means since the last report and check health. Returns False if the run has been rolled back."""
        with torch.no_grad(), self._autocast():
            pairs = self.family.diversity_pairs(batch)
        self._window.gauge("health/diversity", diversity(pairs))
        if self.config.augment.kind == "ada":
            self._window.gauge("augment/strength", self.augmenter.strength.detach().clone())
        names, row = self._window.means()
        self.world.average([row])  # so that every worker reaches the same diagnosis
        metrics = dict(zip(names, row.tolist(), strict=True))
        wrong = self._recovery.diagnose(metrics)
        metrics["rate/images_per_second"] = self._window.steps * self._images_per_step / self._window.seconds()
        metrics["progress/kimg"] = self.images_seen / 1000
        self._window.start()
        if wrong:
            self.step = self._recovery.roll_back(self.step, wrong)
            if self._captured is not None:
                self._captured.forget()
            self._window.start()
            return False
        if self._measures_at(self.step):
            metrics["quality/fid"] = self.world.on_rank_zero(self._measure)
        if self.world.rank == 0:
            self.observer.metrics(metrics, self.step)
        return True

    def _measure(self) -> float:
        """Measure the FID of the current averaged generator, on rank 0; keep the generator if it is the best so far."""
        assert self._quality is not None
        with self._window.paused():
            self.generator.update_statistics()
            figure = self._quality.measure(self.generator, self.step)
            self._exports.keep(figure, self._moment())
            self.observer.figure(figure, self.step)
        return figure.value

    def _draw_grid(self) -> None:
        if self.world.rank == 0:
            with self._window.paused():
                self.generator.update_statistics(_GRID_BATCHES)
                pictures, columns = self.generator.preview()
                self.observer.pictures(pictures.cpu(), self.step, columns)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def _moment(self) -> Moment:
        return Moment(
            step=self.step,
            images_seen=self.images_seen,
            total_images=self._images_seen_in_all,
            incidents=self._recovery.incidents,
        )

    def _save(self) -> None:
        """Write a checkpoint on rank 0, and notify the observer on every rank."""
        with self._window.paused():
            path = None
            if self.world.rank == 0:
                path = self._recovery.save(self.step, self._exports.describe(self._moment()))
            self.world.barrier()
            self.observer.checkpoint(path, self.step)
