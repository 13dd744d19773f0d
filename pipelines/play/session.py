"""What one ``gantry play`` holds: the generator, the uploaded pictures and the projections; and how it answers requests."""

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from gan_core.config import build
from gan_core.errors import DataError, GantryError, PictureError, SettingsError
from gan_core.images import pictures, sandbox
from gan_core.inference.conditions import encode, read_condition, read_reference, with_alpha
from gan_core.inference.edit import Edit, Editor
from gan_core.inference.generator import Generator
from gan_core.inference.provenance import provenance
from gan_core.memory import is_out_of_memory
from pipelines.play.controls import STEPS, describe

MAX_UPLOAD = 32 * 2**20
"""Largest uploaded file in bytes."""
MAX_PIXELS = 2**22
"""Largest width times height of a picture to translate. Larger ones take minutes on a CPU: ``gantry translate`` does them."""
DIRECTIONS = 8
_KEPT = 8
"""Pictures and projections that are kept; the one that was not used for longest is dropped first."""
_LARGEST_MOVE = 20.0
_CLOSE_SECONDS = 10.0

T = TypeVar("T")
Use = Literal["project", "translate", "reference"]


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """A picture to generate; see :class:`gan_core.inference.edit.Edit`."""

    seed: int = 0
    label: int | None = None
    truncation: float | None = None
    projection: int | None = None
    """Number of the projection to start from, in place of the seed."""
    mix_seed: int | None = None
    crossover: int | None = None
    moves: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TranslateRequest:
    """A picture to translate."""

    picture: int
    """Number of the uploaded picture."""
    target: int | None = None
    seed: int = 0
    reference: int | None = None
    """Number of the picture whose style to take."""


@dataclass(frozen=True, kw_only=True)
class ProjectRequest:
    """A picture to project."""

    picture: int
    label: int | None = None
    steps: int = STEPS


@dataclass(frozen=True)
class Picture:
    """An uploaded picture as the generator takes it."""

    use: Use
    pixels: np.ndarray
    """uint8 (C, H, W)."""
    alpha: np.ndarray | None
    """uint8 (H, W), to give to the translation."""
    digest: str
    """SHA-256 of the file."""


@dataclass
class Projection:
    """A projection, in progress or done."""

    picture: Picture
    label: int | None
    steps: int
    done: int = 0
    found: Tensor | None = None
    """z, or styles."""
    distance: float | None = None
    before: float | None = None
    """Distance where the search started, in grey levels."""
    error: str | None = None
    cancelled: bool = False


class _CancelledError(Exception):
    """A newer projection, or the end of the program, has cancelled this one."""


class Session:
    """Answers the page's requests, from several threads. Wrong requests raise a GantryError that the user may read."""

    def __init__(self, generator: Generator, name: str) -> None:
        """``name``: what to call the generator on the page."""
        self.generator, self.name = generator, name
        self._editor = None if generator.translates else Editor(generator, DIRECTIONS)
        self._pictures: OrderedDict[int, Picture] = OrderedDict()
        self._projections: OrderedDict[int, Projection] = OrderedDict()
        self._numbers, self._store, self._turn = itertools.count(1), threading.Lock(), threading.Lock()
        self._starting = threading.Lock()
        self._projecting: threading.Thread | None = None

    def describe(self) -> dict[str, Any]:
        """The generator and its controls."""
        return describe(self.generator, self.name, self._editor)

    def close(self) -> None:
        """Cancel a projection, and wait a few seconds for the threads that use the generator."""
        self._cancel()
        if self._projecting is not None:
            self._projecting.join(_CLOSE_SECONDS)
        if self._turn.acquire(timeout=_CLOSE_SECONDS):
            self._turn.release()

    # -- uploads -------------------------------------------------------------------------------------------------------

    def add_picture(self, content: bytes, use: str) -> dict[str, Any]:
        """Decode an uploaded file for ``use``; returns its number and its size as the generator takes it.

        Raises:
            DataError: it is not a picture, or has too many pixels.
            SettingsError: the generator has no such use.
        """
        shape = self.generator.family.shape
        size, alpha = (shape.height, shape.width), None
        try:
            if use == "project" and self._editor is not None:
                pixels = sandbox.prepare(content, size=size, channels=shape.channels, mode="crop")
            elif use == "translate" and self.generator.translates:
                width, height = sandbox.call_decoder(pictures.read_size, content)
                if width * height > MAX_PIXELS:
                    raise DataError(
                        f"The picture has {width} x {height} pixels; this page takes up to {MAX_PIXELS:,}. Use "
                        "gantry translate, or make it smaller."
                    )
                condition = read_condition(content, shape)
                pixels, alpha = condition.pixels, condition.alpha
            elif use == "reference" and self.generator.takes_styles:
                pixels = read_reference(content, self.generator)
            else:
                raise SettingsError(f"This generator has no use '{use}' for a picture. Reload the page.")
        except PictureError as error:
            raise DataError(f"The file cannot be read as a picture ({error}). Choose another file.") from error
        picture = Picture(use, np.array(pixels), alpha, hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]
        number = self._keep(self._pictures, picture)
        return {"picture": number, "width": int(pixels.shape[2]), "height": int(pixels.shape[1])}

    def picture(self, number: int) -> bytes:
        """The PNG of an uploaded picture as the generator takes it."""
        return encode(with_alpha(self._picture(number, None).pixels))

    # -- from noise ----------------------------------------------------------------------------------------------------

    def sample(self, values: dict[str, Any]) -> bytes:
        """Generate a picture: a PNG whose text chunk says how it was made. ``values``: those of a :class:`SampleRequest`."""
        request, editor = build(SampleRequest, values), self._require_editor()
        moves = {part: amounts for part, amounts in request.moves.items() if any(amounts)}
        if any(abs(amount) > _LARGEST_MOVE for amounts in moves.values() for amount in amounts):
            raise SettingsError(f"moves: must lie between -{_LARGEST_MOVE:g} and {_LARGEST_MOVE:g}.")
        start, label, truncation = None, request.label, request.truncation
        made: dict[str, Any] = {"seed": request.seed, "index": 0}
        if request.projection is not None:
            projection = self._projection(request.projection)
            if projection.found is None:
                raise SettingsError("The projection is not done yet. Wait for it.")
            start = projection.found
            if editor.styled and label not in (None, projection.label):
                # The class is in the styles that were found: another one would change the caption and not the picture.
                raise SettingsError("label: this picture was projected as another class. Project it again as this one.")
            label = projection.label if label is None else label
            truncation = truncation if editor.styled else None  # it acts on draws of z, not on this one
            made = {"projection": {"picture": projection.picture.digest, "steps": projection.steps}}
            made |= {} if projection.label is None else {"projected_label": projection.label}
        edit = Edit(
            seed=request.seed,
            label=label,
            truncation=truncation,
            start=start,
            mix_seed=request.mix_seed,
            crossover=request.crossover,
            moves=moves,  # type: ignore[arg-type]  # find_directions checks the parts
        )
        pixels = self._alone(editor.render, edit).numpy()
        chunk = provenance(
            self.generator.digest,
            **made,
            label=label,
            truncation=truncation,
            mix_seed=request.mix_seed,
            crossover=None if request.mix_seed is None else request.crossover,
            moves={part: list(amounts) for part, amounts in moves.items()} or None,
        )
        return encode(with_alpha(pixels), chunk=chunk)

    def project(self, values: dict[str, Any]) -> dict[str, Any]:
        """Start to project a picture; cancels the one in progress. ``values``: those of a :class:`ProjectRequest`."""
        request, editor = build(ProjectRequest, values), self._require_editor()
        if not 1 <= request.steps <= 2000:
            raise SettingsError(f"steps: must be 1 to 2000, got {request.steps}.")
        picture = self._picture(request.picture, "project")
        if editor.family.conditional and request.label is None:
            raise SettingsError("The generator is class-conditional. Choose the class of the picture first.")
        editor.family.draw(1, 0, request.label)  # checks the label
        projection = Projection(picture, request.label, request.steps)
        with self._starting:  # of two requests at once, the later one cancels the search of the earlier one
            self._cancel()
            number = self._keep(self._projections, projection)
            self._projecting = threading.Thread(target=self._search, args=(projection,), daemon=True, name="projection")
            self._projecting.start()
        return {"projection": number}

    def projection(self, number: int) -> dict[str, Any]:
        """How far a projection is."""
        found = self._projection(number)
        state = "done" if found.found is not None else "failed" if found.error else "running"
        told = {"distance": found.distance, "before": found.before, "error": found.error}
        return {"state": state, "done": found.done, "steps": found.steps, **told}

    def _search(self, projection: Projection) -> None:
        def each(done: int) -> None:
            if projection.cancelled:
                raise _CancelledError
            projection.done = done

        target = torch.from_numpy(projection.picture.pixels)
        options: dict[str, Any] = {"steps": projection.steps, "label": projection.label, "each": each}
        try:
            if self.generator.takes_mixed_styles:
                styles = self.generator.project(target, **options)
                found, projection.before = styles.styles, styles.distance_of_mean
                projection.distance = styles.distance
            else:
                latent = self.generator.project_latent(target, **options)
                found, projection.before = latent.latent, latent.distance_of_draws
                projection.distance = latent.distance
            projection.found = found  # last, because it says that the others are there
        except _CancelledError:
            projection.error = "Another projection was started."
        except GantryError as error:
            projection.error = str(error)
        except Exception as error:
            projection.error = "The projection failed. The terminal has the reason."
            if is_out_of_memory(error):
                projection.error = "The projection needs more memory than there is. Close other programs and try again."
            else:
                raise  # to the terminal

    # -- from pictures -------------------------------------------------------------------------------------------------

    def translate(self, values: dict[str, Any]) -> bytes:
        """Translate a picture: a PNG whose text chunk says how. ``values``: those of a :class:`TranslateRequest`."""
        request = build(TranslateRequest, values)
        picture = self._picture(request.picture, "translate")
        images = torch.from_numpy(picture.pixels[None])
        like: str | None = None
        if request.reference is None:
            made = self._alone(self.generator.translate, images, request.target, request.seed)
        else:
            if request.target is None:
                raise SettingsError("target: missing. Choose a domain.")
            reference = self._picture(request.reference, "reference")
            like, style = reference.digest, torch.from_numpy(reference.pixels[None])
            made = self._alone(self.generator.translate_like, images, style, request.target)
        chunk = provenance(
            self.generator.digest,
            seed=request.seed if like is None else None,
            target=request.target,
            picture=picture.digest,
            like=like,
        )
        return encode(with_alpha(made[0].numpy(), picture.alpha), chunk=chunk)

    # -- what is kept --------------------------------------------------------------------------------------------------

    def _alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call ``function``, which uses the generator, while no other request does."""
        with self._turn:
            try:
                return function(*arguments)
            except (RuntimeError, MemoryError) as error:
                if is_out_of_memory(error):
                    raise DataError("This needs more memory than the device has. Choose a smaller picture.") from error
                raise

    def _require_editor(self) -> Editor:
        if self._editor is None:
            raise SettingsError(f"{self.generator.info['family']} translates pictures; it makes none from noise.")
        return self._editor

    def _keep(self, kept: OrderedDict[int, T], one: T) -> int:
        with self._store:
            number = next(self._numbers)
            kept[number] = one
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        return number

    def _used(self, kept: OrderedDict[int, T], number: int) -> T | None:
        """What is kept under ``number``, which now is the last to be dropped; None if it is not there."""
        with self._store:
            if number in kept:
                kept.move_to_end(number)
            return kept.get(number)

    def _picture(self, number: int, use: Use | None) -> Picture:
        found = self._used(self._pictures, number)
        if found is None or use not in (None, found.use):
            raise DataError("The picture is no longer here. Choose the file again.")
        return found

    def _projection(self, number: int) -> Projection:
        found = self._used(self._projections, number)
        if found is None:
            raise DataError("The projection is no longer here. Choose the file again.")
        return found

    def _cancel(self) -> None:
        with self._store:
            for projection in self._projections.values():
                projection.cancelled = True
