"""What a public dataset is: files that anyone may fetch, their addresses, and how they are read."""

from dataclasses import dataclass

from gan_core.download.fetch import Address


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """One file of a dataset, the same bytes from whichever of its addresses."""

    name: str
    sha256: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """A dataset that anyone may fetch by name."""

    name: str
    about: str
    """Origin and licence, one line."""
    format: str
    """Name of the reader in :mod:`pipelines.data.readers`."""
    classes: tuple[str, ...]
    files: tuple[PublicFile, ...]
    packed: bool = False
    """Whether the only file is a tar of the pictures, in whose place its content is kept."""
    folder: str = ""
    """Its folder in data/raw, where that is not its name; two datasets may be one folder, ingested in two ways."""
    settings: tuple[str, ...] = ()
    """Lines for section ``ingest`` of params.yaml that make of it what its name says, one line a way to use it."""

    @property
    def place(self) -> str:
        """Its folder in data/raw, which is its name in params.yaml."""
        return self.folder or self.name.replace(":", "-")
