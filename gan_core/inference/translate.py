"""Translate all pictures of a folder, a zip file or a single file with an image-to-image generator."""

import hashlib
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

from gan_core.disk import describe_os_error, disk_error_at
from gan_core.errors import DataError, GantryError, SettingsError
from gan_core.families import ImageShape
from gan_core.files import atomic_write
from gan_core.images import pictures, sandbox
from gan_core.images.archive_names import fold_name
from gan_core.images.files import PictureFiles, has_picture_suffix, is_svg, read_picture_file, render_if_svg
from gan_core.inference.conditions import Condition, encode, read_condition, read_reference, with_alpha
from gan_core.inference.generator import Generator
from gan_core.inference.provenance import provenance
from gan_core.memory import is_out_of_memory

OUTPUT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes that OUT may have for a single picture."""
MAX_PIXELS = 2**22
"""Maximum number of pixels per batch (a single picture may have more). Activations need a thousand times their memory."""


@dataclass(frozen=True)
class Task:
    """One picture to translate."""

    name: str
    """Path relative to IN, with forward slashes."""
    out: Path
    index: int
    """Index of the picture, which determines its random numbers together with the seed."""


@dataclass(frozen=True)
class Reference:
    """A picture whose style the results take."""

    pixels: torch.Tensor
    """uint8 (C, height, width) in the generator's shape."""
    digest: str
    """SHA-256 of its file."""


@dataclass
class Outcome:
    """Result of translating several pictures."""

    translated: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Name of each picture that failed, and the reason."""


def plan(files: PictureFiles, out: Path) -> list[Task]:
    """List the pictures to translate, sorted by size and name, so that pictures of the same size share batches.

    Raises:
        SettingsError: ``out`` does not fit ``files``.
    """
    source, names, suffix = files.path, files.names, out.suffix.lower()
    if (suffix == ".zip" or has_picture_suffix(out) or is_svg(out.name)) and not out.is_dir():
        if not files.is_single:
            raise SettingsError(
                f"{source} can contain many pictures, so OUT must be a folder, but '{out.name}' looks like a file."
            )
        if suffix not in OUTPUT_SUFFIXES:
            raise SettingsError(f"OUT must be a folder or end in one of {', '.join(OUTPUT_SUFFIXES)}, got '{suffix}'.")
        return [Task(names[0], out, 0)]
    if out.exists() and not out.is_dir():
        raise SettingsError(f"OUT {out} is a file. Give a folder.")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise SettingsError(
            f"OUT {out} is inside {source}, so its results would be translated next time. Choose a different folder."
        )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = dict(zip(names, pool.map(lambda name: _size(files, name), names), strict=True))
    targets = _results(names)
    ordered = sorted(names, key=lambda name: (sizes[name], name))
    return [Task(name, out / targets[name], index) for index, name in enumerate(ordered)]


def _results(names: Sequence[str]) -> dict[str, str]:
    """The name of each picture's result: a PNG with a unique name that is not the name of a folder either.

    If the names of two pictures differ only in the suffix (a.jpg, a.gif), results keep it: a.jpg.png, a.gif.png. Names that
    differ only in case or in the form of a letter count as one, because the disk of the results may not tell them apart.
    """
    paths = {name: PurePosixPath(name) for name in names}
    times = Counter(fold_name(path.with_suffix("")) for path in paths.values())
    taken = {fold_name(folder) for path in paths.values() for folder in path.parents}
    results: dict[str, str] = {}
    for name, path in sorted(paths.items()):
        short = [f"{path.with_suffix('')}.png"] if times[fold_name(path.with_suffix(""))] == 1 else []
        longer = (f"{path}{'.png' * count}" for count in itertools.count(1))
        results[name] = next(result for result in itertools.chain(short, longer) if fold_name(result) not in taken)
        taken.add(fold_name(results[name]))
    return results


def translate_files(
    generator: Generator,
    tasks: Sequence[Task],
    files: PictureFiles,
    *,
    target: int | None,
    seed: int,
    batch: int,
    reference: Reference | None = None,
) -> Outcome:
    """Translate pictures and write the results. If a picture fails, its reason is recorded and the others continue.

    Args:
        generator: an image-to-image generator.
        tasks: the pictures, from :func:`plan`.
        files: the source of the pictures.
        target: domain to translate to, or attribute to switch; None if there is only one direction.
        seed: seed of random numbers, for families that use them.
        batch: maximum number of pictures per batch.
        reference: picture whose style the results take, in place of one that the seed draws.

    Raises:
        OSError: the disk is full or refuses writing.
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
                assert target is not None, "a generator that takes styles has several domains"
                styles = reference.pixels.expand(len(images), -1, -1, -1)
                made = generator.translate_like(images, styles, target).numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(held) > 1:
                for one in held:
                    finish([one])
                return
            size = "x".join(map(str, images.shape[2:]))
            outcome.failed[held[0][0].name] = f"{size} pixels need more memory than the device has"
            bar.update(1)
            return
        for (task, condition), picture in zip(held, made, strict=True):
            drawn = {"seed": seed, "index": task.index} if reference is None else {"like": reference.digest}
            try:
                chunk = provenance(generator.digest, target=target, **drawn)
                content = encode(with_alpha(picture, condition.alpha), task.out.suffix.lower(), chunk)
                with atomic_write(task.out) as temporary:
                    temporary.write_bytes(content)
                outcome.translated += 1
            except OSError as error:
                if refused := disk_error_at(error, task.out):  # all following pictures would fail, too
                    raise refused from error
                outcome.failed[task.name] = describe_os_error(error)
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
                or (len(held) + 1) * found.pixels[0].size > MAX_PIXELS
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
    """Yield each task with its picture or its error; threads read up to ``ahead`` pictures in advance."""

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


def load_reference(like: Path, generator: Generator) -> Reference:
    """Read the style reference at ``like`` in the generator's shape.

    Raises:
        SettingsError: the generator does not take styles from pictures.
        DataError: the picture cannot be read.
    """
    try:
        content = read_picture_file(like)
        pixels = torch.from_numpy(read_reference(render_if_svg(like.name, content), generator))
    except (pictures.PictureError, OSError) as error:
        raise DataError(f"--like {like} cannot be read as a picture ({error}). Give a different picture.") from error
    return Reference(pixels, hashlib.sha256(content).hexdigest())


def check_inputs_kept(sources: Sequence[Path], tasks: Sequence[Task], like: Path | None) -> None:
    """Raise SettingsError if a result would overwrite an input picture; applies also to ``--replace``."""
    read = {_identity(path): path for path in [*sources, *([like] if like else [])]}
    read.pop(None, None)
    for task in tasks:
        if lost := read.get(_identity(task.out)):
            raise SettingsError(
                f"The result of {task.name} would overwrite the input {lost}. Choose a different OUT than {task.out.parent}."
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, equal for all its hard links; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_outputs_free(tasks: Sequence[Task], out: Path, replace: bool) -> None:
    """Raise SettingsError if a result exists already, unless ``replace`` is set."""
    there = [task.out for task in tasks if task.out.exists()]
    if there and not replace:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise SettingsError(
            f"{there[0]}{more} would be overwritten. Choose a different OUT than {out}, or add --replace."
        )


def _size(files: PictureFiles, name: str) -> tuple[int, int]:
    """Width and height from the file's header; (0, 0) if unreadable, which :func:`translate_files` reports later."""
    try:
        content = files.load(name)
        if isinstance(content, np.ndarray):
            return content.shape[2], content.shape[1]
        return sandbox.call_decoder(pictures.read_size, content)
    except pictures.PictureError:
        return 0, 0
