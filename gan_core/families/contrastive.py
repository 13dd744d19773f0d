"""CUT: Park, Efros, Zhang & Zhu 2020, "Contrastive Learning for Unpaired Image-to-Image Translation".

The contrastive loss replaces CycleGAN's cycle consistency: the encoder's features at a position of a translation should be
closer to those at the same position of the source than to those at its other positions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core import randomness
from gan_core.families.translation_layers import ResidualGenerator

_LENGTH = 256
"""Length of a feature vector (section 3)."""


class ContrastiveGenerator(ResidualGenerator):
    """A residual generator with reflection padding that also returns features of its encoder at given positions.

    The features are taken from five layers: the picture itself, both convolutions that halve the size, and the first and the
    middle residual block. A network of two layers projects each (appendix: "sampling from 5 layers").
    """

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__(channels, channels, width, blocks, kernel=3, reflect=True, bias=True)
        self.middle = min(4, blocks - 1)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(maps, _LENGTH), nn.ReLU(inplace=True), nn.Linear(_LENGTH, _LENGTH))
            for maps in (channels, 2 * width, 4 * width, 4 * width, 4 * width)
        )

    def places(self, height: int, width: int, count: int, device: torch.device, *key: int | str) -> list[Tensor]:
        """Draw up to ``count`` positions in each of the five layers, int64, for pictures of ``height`` and ``width``."""
        sizes = [height * width, height * width // 4, *[height * width // 16] * 3]
        draws = [
            randomness.uniform((size,), randomness.WorkerSlice(), device, *key, layer)
            for layer, size in enumerate(sizes)
        ]
        return [draw.argsort(stable=True)[:count] for draw in draws]

    def forward(  # type: ignore[override]
        self, images: Tensor, places: Sequence[Tensor] = (), translates: bool = True
    ) -> Tensor | tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Translate ``images``.

        Args:
            images: (N, C, H, W).
            places: positions in each of the five layers, from :meth:`places`.
            translates: whether to translate, and not only to compute features.

        Returns:
            Pictures (N, C, H, W); with ``places`` also the features (N, positions, 256) of each layer, or only these.
        """
        if not places:
            return super().forward(images)
        # The last stage of the encoder consists of a convolution, its norm and ReLU.
        half = self.encode[:-3](images)
        quarter = self.encode[-3:](half)
        seen, maps = [images, half, quarter], quarter
        for index, block in enumerate(self.blocks):
            if index > self.middle and not translates:
                break
            maps = block(maps)
            seen += [maps] if index in (0, self.middle) else []
        if self.middle == 0:
            seen.append(maps)
        features = [self._at(*layer) for layer in zip(seen, places, self.heads, strict=True)]
        return (self.decode(maps), features) if translates else features

    def _at(self, maps: Tensor, places: Tensor, head: nn.Module) -> Tensor:
        return F.normalize(head(maps.flatten(2)[:, :, places].transpose(1, 2)).float(), dim=2)


def patch_nce(queries: Sequence[Tensor], keys: Sequence[Tensor], temperature: float) -> Tensor:
    """PatchNCE loss: mean over layers and positions of the cross-entropy of each query with its own key (equation 3): (N,).

    Args:
        queries: features of a translation for each layer, of unit length, (N, positions, C).
        keys: features of its source at the same positions; they get no gradient.
        temperature: divisor of the products of features.
    """
    losses = []
    for query, key in zip(queries, keys, strict=True):
        logits = query @ key.detach().transpose(1, 2) / temperature
        own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        losses.append(F.cross_entropy(logits.transpose(1, 2), own, reduction="none").mean(dim=1))
    return torch.stack(losses).mean(dim=0)
