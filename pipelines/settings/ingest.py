"""The section ``ingest`` of params.yaml: the kind of the dataset and how its pictures are prepared."""

from dataclasses import dataclass
from typing import Literal

from gan_core.config import check
from gan_core.images.pictures import Fit

Pairs = Literal["folders", "side-by-side", "greyscale", "edges", "mask", "lowres"]
Side = Literal["first", "second"]
DERIVED = ("greyscale", "edges", "mask", "lowres")
"""Values of ``ingest.pairs`` that compute the condition from the picture itself."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Where the conditions of paired data come from."""

    pairs: Pairs
    side: Side
    """Half of a side-by-side picture that is the condition; ``first`` is the left one."""
    channels: int
    """Channels of the condition."""


Kind = Literal["auto", "unlabelled", "labelled", "paired", "unpaired", "domains"]


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """The section ``ingest`` of params.yaml."""

    kind: Kind = "auto"
    """Kind of dataset: ``unlabelled``; ``labelled``; ``paired`` (each picture with a condition, the picture to translate
    from); ``unpaired`` (two domains); ``domains`` (two or more domains, or a table of attributes). ``auto`` detects the kind
    from the folder layout, except ``paired``."""
    pairs: Pairs = "folders"
    """Source of the conditions of ``paired`` data. ``folders``: two folders with equal file names; ``side-by-side``: one half
    of each picture. The others are computed from the picture: ``greyscale`` (its lightness, CIE L*), ``edges``, ``mask``
    (its silhouette), ``lowres``."""
    condition_side: Side = "first"
    """Folder or half that is the condition: ``first`` is the first of the two folders by name, or the left half."""
    condition_channels: int | None = None
    """Channels of the condition: 1, 3 or 4. null: 1 for greyscale, edges and mask, otherwise the value of ``channels``."""
    attributes: tuple[str, ...] = ()
    """Columns of the table of attributes to use; empty: all."""
    size: tuple[int, int] = (32, 32)
    """Height and width of the prepared pictures, pixels."""
    channels: int = 3
    """Channels of the prepared pictures: 1 grey, 3 RGB, 4 RGBA. With 1 or 3, transparent pictures are composed on white."""
    fit: Fit = "crop"
    """How pictures are fitted to ``size``. ``crop``: scale to cover it and crop the centre; ``pad``: shrink larger pictures,
    enlarge none, and centre on black (with 4 channels on transparency); ``stretch``: ignore the aspect ratio."""
    test_share: float = 0.0
    """Share of pictures held out as the test split, chosen by a hash of their content. Ignored if the source has splits."""
    max_reject_share: float = 0.01
    """Largest share of unusable pictures (unreadable, without a partner, without a label in labelled data). Above it, ingestion
    fails."""
    max_duplicate_share: float = 1.0
    """Largest share of duplicates, which are removed and reported. Above it, ingestion fails."""
    shard_pictures: int = 8192
    """Pictures in one shard; the last shard of a split holds the remainder."""
    workers: int = 1
    """Ray tasks that run in parallel; 1 runs without Ray, in the stage's process. The prepared data does not depend on it."""

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
            check(not changed, f"{', '.join(changed)}: for paired data only; set kind to paired (it is {self.kind}).")
        check(
            self.kind == "domains" or not self.attributes,
            f"attributes: for kind domains only; set kind to domains (it is {self.kind}), or remove them.",
        )
        twice = sorted({name for name in self.attributes if self.attributes.count(name) > 1})
        check(not twice, f"attributes: {', '.join(twice)} appears twice.")
        check(
            self.pairs != "greyscale" or self.channels == 3,
            f"channels: must be 3 (RGB) for greyscale pairs, got {self.channels}.",
        )
        given = self.condition_channels
        check(given in (None, 1, 3, 4), f"condition_channels: must be 1, 3, 4 or null, got {given}.")
        made = {"lowres": self.channels, **dict.fromkeys(("greyscale", "edges", "mask"), 1)}.get(self.pairs, given)
        check(
            given in (None, made),
            f"condition_channels: must be {made} (or null) for {self.pairs} pairs of {self.channels} channels, got {given}.",
        )

    @property
    def pairing(self) -> Pairing | None:
        """Where conditions come from; None if the data is not paired."""
        if self.kind != "paired":
            return None
        usual = 1 if self.pairs in ("greyscale", "edges", "mask") else self.channels
        return Pairing(pairs=self.pairs, side=self.condition_side, channels=self.condition_channels or usual)
