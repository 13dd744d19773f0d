"""Measure a generator that translates on data that it may not have been trained on."""

from pathlib import Path

from gan_core.data import DatasetInfo
from gan_core.errors import DataError
from gan_core.families import FAMILIES, ImageShape
from gan_core.inference.generator import Generator
from gan_core.metrics.assess import Assessment, assess
from gan_core.metrics.inception import Extractor
from gan_core.metrics.sources import DatasetSplit

UNNAMED = ("A", "B")
"""Names of the domains of folders trainA and trainB, and of imported generators: domains without names of their own."""
_NO_LATENTS = "translations are made from pictures, not from latents"
_PAIRED_ONLY = "it compares with the right translation of each picture, which paired data has only"
_DOMAINS_ONLY = "it needs data with domains"


def assess_translations(
    generator: Generator,
    data: DatasetSplit,
    *,
    count: int,
    seed: int,
    extractor: Extractor,
    batch_size: int | None = None,
    cache_dir: Path | str | None = None,
    progress: bool = False,
    full: bool = True,
) -> Assessment:
    """The figures of the evaluate stage for a generator that translates, and the reason for each that does not apply.

    Paired data: the sources of the pairs are translated and compared with the real targets. Unpaired data, domains and
    attributes: the pictures of each domain are translated to every other one and compared with the real pictures of that one.

    Args:
        generator: a generator that translates.
        data: a split of the data to measure on.
        count: maximum number of pictures of each side, in each direction: a fixed random subset.
        seed: seed of the generator's random numbers.

    For the other arguments and the errors see :func:`gan_core.metrics.assess.assess`.

    Raises:
        DataError: the data is of another kind, or has other channels or domains, than the generator translates.
    """
    info = data.dataset.info
    check_translates(generator, info)
    found = assess(
        generator,
        data.dataset,
        split=data.split,
        count=count,
        real_count=count,
        seed=seed,
        extractor=extractor,
        generator_digest=generator.digest,
        batch_size=batch_size,
        cache_dir=cache_dir,
        progress=progress,
        full=full,
    )
    if full:
        reasons = dict.fromkeys(("ppl_z", "ppl_w"), _NO_LATENTS)
        if info.kind == "paired":
            reasons["fid_class"] = "translations of pairs have no class of their own"
            reasons |= dict.fromkeys(("cycle", "accuracy"), _DOMAINS_ONLY)
        else:
            reasons["fid_class"] = "the FID of each direction takes its place"
            reasons |= dict.fromkeys(("l1", "psnr", "ssim"), _PAIRED_ONLY)
            if info.kind == "unpaired":
                reasons["accuracy"] = "the classifier is for domains and attributes; class_agreement takes its place"
        measured = {figure.name for figure in found.figures}
        for name, reason in reasons.items():
            if name not in measured:
                found.findings.omitted.setdefault(name, reason)
    return found


def check_translates(generator: Generator, info: DatasetInfo) -> None:
    """Raise DataError if ``generator`` cannot translate the pictures of the data that ``info`` describes.

    Domains are compared by name if both have names. The size of the pictures may differ: generators take any.
    """
    family = generator.info["family"]
    own, other = ImageShape(**generator.info["shape"]), ImageShape.of(info)
    kinds = FAMILIES[family].kinds
    differing = []
    if info.kind not in kinds:
        differing.append(f"is {info.kind} data, and {family} translates {' or '.join(sorted(kinds))} data")
    for name in ("channels", "condition_channels", "derived", "classes", "attributes"):
        here, there = getattr(other, name), getattr(own, name)
        if here != there:
            differing.append(f"has {name.replace('_', ' ')} {here or 'none'}, and the generator {there or 'none'}")
    for name in ("classes", "attributes"):
        here, there = getattr(info, name), tuple(map(str, generator.info.get(name) or ()))
        if here and there and len(here) == len(there) and here != there and UNNAMED not in (here, there):
            differing.append(f"has the {name} {', '.join(here)}, and the generator {', '.join(there)}")
    if differing:
        raise DataError(
            f"{info.name} cannot be translated by this generator: it {'; it '.join(differing)}. Prepare data with the ingest "
            "settings that the generator was trained with, or give another generator."
        )
