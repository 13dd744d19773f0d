"""Describe public datasets: their files, the addresses of each file, and the reader."""

from dataclasses import dataclass

from gan_core.download.fetch import Address


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """One file of a public dataset. All addresses give the same bytes."""

    name: str
    sha256: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """A dataset that ``gantry data fetch NAME`` downloads."""

    name: str
    about: str
    """Origin and licence, in one line."""
    format: str
    """Name of the reader in :mod:`pipelines.data.readers`."""
    classes: tuple[str, ...]
    """Class names in the order of labels; empty if folders define the classes."""
    files: tuple[PublicFile, ...]
    packed: bool = False
    """Whether the only file is a tar of pictures, which is unpacked and removed."""
    folder: str = ""
    """Its folder in data/raw, if it shares the one of another dataset; empty if it has its own."""
    settings: tuple[str, ...] = ()
    """Lines for the section ``ingest`` of params.yaml, one for each way to use the dataset; empty if the defaults suit it."""

    @property
    def folder_name(self) -> str:
        """Name of its folder in data/raw, which is ``data.name`` in params.yaml."""
        return self.folder or self.name.replace(":", "-")
