"""Translate the pictures of a folder, a zip or a file by an image-to-image generator, each to a file of its own."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from tqdm import tqdm

from gan_core.disk import what_failed, with_place
from gan_core.errors import DataError, GantryError, SettingsError
from gan_core.families import ImageShape
from gan_core.files import replacing
from gan_core.images import bounded, pictures
from gan_core.images.files import PictureFiles, drawn, has_picture_suffix, is_drawing, read_picture_file
from gan_core.inference.conditions import Condition, encode, read_condition, read_reference, with_alpha
from gan_core.inference.generator import Generator
from gan_core.precision import out_of_memory

WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that OUT may have for a single picture."""
PIXELS = 2**22
"""Pixels in one pass of the generator, unless a single picture has more. Activations need a thousand times their memory."""


@dataclass(frozen=True)
class Task:
    """One picture to translate."""

    name: str
    """Within IN, with forward slashes."""
    out: Path
    index: int
    """Names its random numbers beside the seed."""


@dataclass
class Outcome:
    """What became of the pictures."""

    translated: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by name."""


def plan(files: PictureFiles, out: Path) -> list[Task]:
    """The pictures to translate, in the order of size and name: pictures of one size make a batch.

    Raises:
        SettingsError: ``out`` cannot take the pictures of ``files``.
    """
    source, names, suffix = files.path, files.names, out.suffix.lower()
    if (suffix == ".zip" or has_picture_suffix(out) or is_drawing(out.name)) and not out.is_dir():
        if not files.is_single:
            raise SettingsError(
                f"{source} may hold many pictures: OUT is a folder, and '{out.name}' reads like a file."
            )
        if suffix not in WRITTEN:
            raise SettingsError(f"OUT may end in {', '.join(WRITTEN)}, or be a folder, but not end in '{suffix}'.")
        return [Task(names[0], out, 0)]
    if out.exists() and not out.is_dir():
        raise SettingsError(f"OUT {out} is a file; give a folder.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise SettingsError(
            f"OUT {out} lies in {source}: its results would be translated next time. Choose another place."
        )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = dict(zip(names, pool.map(lambda name: _size(files, name), names), strict=True))
    targets = _results(names)
    ordered = sorted(names, key=lambda name: (sizes[name], name))
    return [Task(name, out / targets[name], index) for index, name in enumerate(ordered)]


def _results(names: Sequence[str]) -> dict[str, str]:
    """The name of each picture's result: a PNG, whose name is no other result's and no folder's.

    Two pictures whose names differ in the suffix alone (a.jpg, a.gif) keep it: a.jpg.png, a.gif.png.
    """
    paths = {name: PurePosixPath(name) for name in names}
    times = Counter(path.with_suffix("") for path in paths.values())
    taken = {str(folder) for path in paths.values() for folder in path.parents}
    results: dict[str, str] = {}
    for name, path in sorted(paths.items()):
        short = [f"{path.with_suffix('')}.png"] if times[path.with_suffix("")] == 1 else []
        longer = (f"{path}{'.png' * count}" for count in itertools.count(1))
        results[name] = next(result for result in itertools.chain(short, longer) if result not in taken)
        taken.add(results[name])
    return results


def translate_files(
    generator: Generator,
    tasks: Sequence[Task],
    files: PictureFiles,
    *,
    target: int | None,
    seed: int,
    batch: int,
    reference: torch.Tensor | None = None,
) -> Outcome:
    """Translate the pictures. Where one fails, the outcome holds the reason, and the others are translated.

    With a ``reference``, uint8 (C, height, width) in the generator's shape, results have its style.
    """
    outcome = Outcome()
    shape = ImageShape(**generator.info["shape"])

    def read(task: Task) -> Condition:
        return read_condition(files.load(task.name), shape)

    def finish(held: list[tuple[Task, Condition]]) -> None:
        if not held:
            return
        images = torch.from_numpy(np.stack([condition.pixels for _, condition in held]))
        try:
            if reference is None:
                made = generator.translate(images, target, seed, first=held[0][0].index).numpy()
            else:
                assert target is not None, "who takes a style translates to several domains"
                made = generator.translate_like(images, reference.expand(len(images), -1, -1, -1), target).numpy()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(held) > 1:
                for one in held:
                    finish([one])
                return
            size = "x".join(map(str, images.shape[2:]))
            outcome.failed[held[0][0].name] = f"{size} pixels do not fit into the memory of the device"
            bar.update(1)
            return
        for (task, condition), picture in zip(held, made, strict=True):
            try:
                content = encode(with_alpha(picture, condition.alpha), task.out.suffix.lower())
                with replacing(task.out) as temporary:
                    temporary.write_bytes(content)
                outcome.translated += 1
            except OSError as error:
                if refused := with_place(error, task.out):  # which it would do to all that follow
                    raise refused from error
                outcome.failed[task.name] = what_failed(error)
            except GantryError as error:
                outcome.failed[task.name] = str(error)
            bar.update(1)

    with tqdm(total=len(tasks), unit="picture", desc="translate", disable=len(tasks) == 1) as bar:
        held: list[tuple[Task, Condition]] = []
        for task, found in _read_ahead(tasks, read, ahead=2 * batch):
            if isinstance(found, Exception):
                outcome.failed[task.name] = " ".join(str(found).split()) or type(found).__name__
                bar.update(1)
            if held and (
                isinstance(found, Exception)
                or found.pixels.shape != held[0][1].pixels.shape
                or len(held) == batch
                or (len(held) + 1) * found.pixels[0].size > PIXELS
            ):
                finish(held)
                held = []
            if isinstance(found, Condition):
                held.append((task, found))
        finish(held)
    return outcome


def _read_ahead(
    tasks: Sequence[Task], read: Callable[[Task], Condition], ahead: int
) -> Iterator[tuple[Task, Condition | Exception]]:
    """Each task with its picture, or with the error of reading it; threads read up to ``ahead`` pictures in advance."""

    def one(task: Task) -> Condition | Exception:
        try:
            return read(task)
        except (GantryError, RuntimeError) as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[tuple[Task, Future[Condition | Exception]]] = deque()
        try:
            for task in tasks:
                waiting.append((task, pool.submit(one, task)))
                if len(waiting) > ahead:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def load_reference(like: Path, generator: Generator) -> torch.Tensor:
    """The picture at ``like`` in the generator's shape; raises SettingsError and DataError."""
    try:
        return torch.from_numpy(read_reference(drawn(like.name, read_picture_file(like)), generator))
    except (pictures.PictureError, OSError) as error:
        raise DataError(f"--like {like} cannot be read as a picture ({error}). Give another one.") from error


def check_kept(sources: Sequence[Path], tasks: Sequence[Task], like: Path | None) -> None:
    """Raise SettingsError where a result would overwrite a picture that is read, also with ``--replace``."""
    read = {_identity(path): path for path in [*sources, *([like] if like else [])]}
    read.pop(None, None)
    for task in tasks:
        if lost := read.get(_identity(task.out)):
            raise SettingsError(
                f"The result of {task.name} would take the place of {lost} itself. Give another OUT than {task.out.parent}."
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, equal for all of its names; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_free(tasks: Sequence[Task], out: Path, replace: bool) -> None:
    there = [task.out for task in tasks if task.out.exists()]
    if there and not replace:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise SettingsError(f"{there[0]}{more} would be overwritten: choose another OUT than {out}, or add --replace.")


def _size(files: PictureFiles, name: str) -> tuple[int, int]:
    """Width and height from the file's header; (0, 0) where it cannot be read, which :func:`translate_files` reports."""
    try:
        content = files.load(name)
        if isinstance(content, np.ndarray):
            return content.shape[2], content.shape[1]
        return bounded.picture_of(pictures.size_of, content)
    except pictures.PictureError:
        return 0, 0
