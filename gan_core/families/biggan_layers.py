"""Layers of BigGAN: spectral norm, conditional batch norm, self-attention, residual blocks.

Weights are initialised orthogonally (Saxe et al. 2014; Brock et al. 2019, section 3), biases with zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.nn.batch_norm import BatchNorm2d
from gan_core.precision import full_precision


class SpectralNorm(nn.Module):
    """Spectral norm: divides a weight by its largest singular value (Miyato et al. 2018, algorithm 1).

    The singular vectors are buffers, part of every checkpoint; each call in training mode refines them by one power
    iteration. It computes in fp32, whereas torch's spectral norm iterates in bf16 under autocast on a GPU. The layers keep
    their weights unnormalised, so that orthogonal regularisation acts on the weights themselves.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows = weight.detach().flatten(1)
        self.register_buffer("left", torch.randn(rows.shape[0]))
        self.register_buffer("right", torch.zeros(rows.shape[1]))
        if type(rows) is Tensor and not rows.is_meta:  # fake tensors and those on the meta device have no values
            self.iterate(rows, 15)

    @torch.no_grad()
    def iterate(self, rows: Tensor, times: int = 1) -> None:
        """Refine the singular vectors of ``rows`` (outputs, inputs) by ``times`` power iterations."""
        for _ in range(times):
            self.right.copy_(F.normalize(rows.T.mv(self.left), dim=0))
            self.left.copy_(F.normalize(rows.mv(self.right), dim=0))

    @torch.no_grad()
    def solve(self, rows: Tensor) -> None:
        """Set the singular vectors to those of ``rows`` (outputs, inputs), whatever they were before."""
        wide = rows.shape[0] <= rows.shape[1]
        products = rows @ rows.T if wide else rows.T @ rows
        # torch raises for numbers that are not finite. Pictures then show that a run has diverged, as in other families.
        vector = torch.linalg.eigh(products.nan_to_num(0.0, 0.0, 0.0)).eigenvectors[:, -1]
        self.left.copy_(vector if wide else F.normalize(rows.mv(vector), dim=0))
        self.iterate(rows)

    def forward(self, weight: Tensor) -> Tensor:
        """Divide ``weight`` (outputs, ...) by its largest singular value."""
        with full_precision(weight.device):
            rows = weight.flatten(1)
            if self.training:
                self.iterate(rows.detach())
            # Clones, because the discriminator may be called again before the backward pass of this call.
            return weight / self.left.clone().dot(rows.mv(self.right.clone()))


@torch.no_grad()
def solve_spectral_norms(network: nn.Module) -> None:
    """Compute all spectral norms in ``network`` anew, after its weights were changed from outside, as by averaging."""
    for module in network.modules():
        if isinstance(module, SpectralConv2d | SpectralLinear | SpectralEmbedding):
            module.spectral.solve(module.weight.flatten(1))


class SpectralConv2d(nn.Conv2d):
    """A convolution with spectral norm that keeps the size of its input."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=bias)
        _start(self)
        self.spectral = SpectralNorm(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return F.conv2d(input, self.spectral(self.weight), self.bias, padding=self.padding)  # type: ignore[arg-type]


class SpectralLinear(nn.Linear):
    """A linear layer with spectral norm."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        _start(self)
        self.spectral = SpectralNorm(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, inputs) to (N, outputs)."""
        return F.linear(input, self.spectral(self.weight), self.bias)


class SpectralEmbedding(nn.Embedding):
    """An embedding with spectral norm."""

    def __init__(self, rows: int, outputs: int) -> None:
        super().__init__(rows, outputs)
        nn.init.orthogonal_(self.weight)
        self.spectral = SpectralNorm(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Map indices (N,) to vectors (N, outputs)."""
        return F.embedding(input, self.spectral(self.weight))


def _start(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class ConditionalNorm(nn.Module):
    """Conditional batch norm: gain and bias depend on a class, or are projected from a vector.

    Gains are centred at 1, biases at 0 (Brock et al. 2019, appendix B).
    """

    def __init__(self, channels: int, condition: int, classes: int) -> None:
        """Create the layer.

        Args:
            channels: number of feature maps.
            condition: length of the vector; 0 to condition on the class index.
            classes: number of classes.
        """
        super().__init__()
        self.normalise = BatchNorm2d(channels, affine=False)
        if condition:
            self.gain: nn.Module = SpectralLinear(condition, channels, bias=False)
            self.bias: nn.Module = SpectralLinear(condition, channels, bias=False)
        else:
            self.gain, self.bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
            nn.init.orthogonal_(self.gain.weight)
            nn.init.orthogonal_(self.bias.weight)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Normalise ``maps`` (N, channels, H, W) for ``condition``: classes (N,) or vectors (N, condition)."""
        normal = self.normalise(maps)
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        return torch.addcmul(bias[:, :, None, None].to(normal.dtype), normal, gain[:, :, None, None].to(normal.dtype))


class Attention(nn.Module):
    """Self-attention over positions (Zhang et al. 2019, section 3), keys and values at half the resolution.

    Queries and keys have an eighth of the channels. The output is multiplied by a learnt gate that is initialised with 0, so
    that the maps pass unchanged at first.
    """

    def __init__(self, channels: int, values: int) -> None:
        """Create the layer for ``channels`` feature maps; the values have ``channels / values``."""
        super().__init__()
        small, wide = max(channels // 8, 1), max(channels // values, 1)
        self.queries = SpectralConv2d(channels, small, 1, bias=False)
        self.keys = SpectralConv2d(channels, small, 1, bias=False)
        self.values = SpectralConv2d(channels, wide, 1, bias=False)
        self.output = SpectralConv2d(wide, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Add to each position of ``maps`` (N, channels, H, W) what it attends to in all others."""
        queries = self.queries(maps).flatten(2)
        keys = F.max_pool2d(self.keys(maps), 2).flatten(2)
        values = F.max_pool2d(self.values(maps), 2).flatten(2)
        # Written out, because torch's fused attention is not deterministic and has no double backward pass.
        shares = torch.softmax(queries.transpose(1, 2) @ keys, dim=2)
        gathered = values @ shares.to(values.dtype).transpose(1, 2)
        return maps + self.gate * self.output(gathered.unflatten(2, maps.shape[2:]))


class UpBlock(nn.Module):
    """Residual block that doubles the resolution (Brock et al. 2019, figure 15b)."""

    def __init__(self, inputs: int, outputs: int, condition: int, classes: int) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(inputs, condition, classes)
        self.conv1 = SpectralConv2d(inputs, outputs)
        self.norm2 = ConditionalNorm(outputs, condition, classes)
        self.conv2 = SpectralConv2d(outputs, outputs)
        self.shortcut = SpectralConv2d(inputs, outputs, 1)

    def forward(self, maps: Tensor, condition: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
        inner = self.conv1(_doubled(F.relu(self.norm1(maps, condition), inplace=True)))
        inner = self.conv2(F.relu(self.norm2(inner, condition), inplace=True))
        # Equal to upsampling first, at a quarter of the work.
        return inner + _doubled(self.shortcut(maps))


class DownBlock(nn.Module):
    """Residual block that may halve the resolution (Brock et al. 2019, figure 15c)."""

    def __init__(self, inputs: int, outputs: int, slope: float, *, down: bool, first: bool) -> None:
        """Create the block.

        Args:
            inputs: feature maps of the input.
            outputs: feature maps of the output.
            slope: negative slope.
            down: whether to halve the resolution.
            first: whether the input is the picture, to which no activation is applied.
        """
        super().__init__()
        self.slope, self.down, self.first = slope, down, first
        self.conv1 = SpectralConv2d(inputs, outputs)
        self.conv2 = SpectralConv2d(outputs, outputs)
        self.shortcut = SpectralConv2d(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), or to half of H and W."""
        inner = self.conv1(maps if self.first else F.leaky_relu(maps, self.slope))
        inner = self.conv2(F.leaky_relu(inner, self.slope, inplace=True))
        if self.down:
            inner, maps = F.avg_pool2d(inner, 2), F.avg_pool2d(maps, 2)
        return inner + (maps if self.shortcut is None else self.shortcut(maps))


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="nearest")
