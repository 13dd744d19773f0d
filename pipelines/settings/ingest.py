"""The section ``ingest`` of params.yaml: what the pictures are and how they are prepared."""

from dataclasses import dataclass
from typing import Literal

from gan_core.config import check
from gan_core.images.pictures import Fit

Pairs = Literal["folders", "side-by-side", "greyscale", "edges", "mask", "lowres"]
Side = Literal["first", "second"]
DERIVED = ("greyscale", "edges", "mask", "lowres")


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """How a picture comes to its condition."""

    how: Pairs
    side: Side
    """Of a picture of two halves, which one is the condition: the left one is first."""
    channels: int
    """Of the condition."""


Kind = Literal["auto", "unlabelled", "labelled", "paired", "unpaired", "domains"]


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """Section ``ingest`` of params.yaml."""

    kind: Kind = "auto"
    """What the pictures are to each other: ``unlabelled``, ``labelled``, ``paired`` (each with the picture that it is to be
    made from, its condition), ``unpaired`` (two domains), ``domains`` (two or more, or a table of attributes). ``auto`` sees
    from the layout which of them it is, but for pairs; see :func:`pipelines.data.arrange.arrange`."""
    pairs: Pairs = "folders"
    """Of ``paired`` data, where conditions come from: ``folders`` (two folders with equal names), ``side-by-side`` (the
    halves of each picture), or the picture itself: ``greyscale`` (its lightness, CIE L*), ``edges``, ``mask`` (its
    silhouette), ``lowres``."""
    condition_side: Side = "first"
    """Which of two folders, by name, or of two halves, from the left, is the condition."""
    condition_channels: int | None = None
    """1, 3 or 4; None: as ``channels``, and 1 for greyscale, edges and masks."""
    attributes: tuple[str, ...] = ()
    """Of a table of attributes, the columns to use; empty for all."""
    size: tuple[int, int] = (32, 32)
    """Height and width of the prepared pictures, pixels."""
    channels: int = 3
    """1 grey, 3 RGB, 4 RGBA; transparency is composed on white when there is no fourth channel."""
    fit: Fit = "crop"
    """``crop``: cover the shape and cut the centre out; ``pad``: shrink what is larger, never enlarge, centre on black
    (on transparency with 4 channels); ``stretch``: ignore the aspect."""
    test_share: float = 0.0
    """Share of pictures held out as the test split by a hash of their content, where the source has no splits."""
    max_reject_share: float = 0.01
    """Above this share of pictures that cannot be used (unreadable, unlabelled, without a partner) ingestion fails."""
    max_duplicate_share: float = 1.0
    """Above this share of duplicates, which are put aside, ingestion fails; at 1 they are only reported."""
    shard_pictures: int = 8192
    """Pictures in one shard; the last of a split holds the rest."""
    workers: int = 1
    """Ray tasks at once; 1 runs in this process. Does not change the result."""

    def __post_init__(self) -> None:
        check(
            all(1 <= side <= 4096 for side in self.size), f"size: each side must be 1 to 4096 pixels, got {self.size}."
        )
        check(self.channels in (1, 3, 4), f"channels: must be 1, 3 or 4, got {self.channels}.")
        check(self.fit in ("crop", "pad", "stretch"), f"fit: must be crop, pad or stretch, got {self.fit!r}.")
        check(0 <= self.test_share < 1, f"test_share: must lie in [0, 1), got {self.test_share}.")
        check(0 <= self.max_reject_share <= 1, f"max_reject_share: must lie in [0, 1], got {self.max_reject_share}.")
        share = self.max_duplicate_share
        check(0 <= share <= 1, f"max_duplicate_share: must lie in [0, 1], got {share}.")
        check(self.shard_pictures >= 1, f"shard_pictures: must be at least 1, got {self.shard_pictures}.")
        check(self.workers >= 1, f"workers: must be at least 1, got {self.workers}.")
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind != "paired":
            of_pairs = {"pairs": "folders", "condition_side": "first", "condition_channels": None}
            changed = [name for name, default in of_pairs.items() if getattr(self, name) != default]
            check(not changed, f"{', '.join(changed)}: of paired data only; set kind to paired (it is {self.kind}).")
        check(self.kind == "domains" or not self.attributes, f"attributes: need kind domains (it is {self.kind}).")
        check(len(set(self.attributes)) == len(self.attributes), "attributes: one is named twice.")
        check(
            self.pairs != "greyscale" or self.channels == 3,
            f"channels: greyscale pairs lead from grey to RGB, 3 channels, got {self.channels}.",
        )
        given = self.condition_channels
        check(given in (None, 1, 3, 4), f"condition_channels: must be 1, 3, 4 or null, got {given}.")
        made = {"lowres": self.channels, **dict.fromkeys(("greyscale", "edges", "mask"), 1)}.get(self.pairs, given)
        check(given in (None, made), f"condition_channels: {self.pairs} makes {made} of {self.channels}, got {given}.")

    @property
    def pairing(self) -> Pairing | None:
        """How conditions are come by; None where there are none."""
        if self.kind != "paired":
            return None
        usual = 1 if self.pairs in ("greyscale", "edges", "mask") else self.channels
        return Pairing(how=self.pairs, side=self.condition_side, channels=self.condition_channels or usual)
