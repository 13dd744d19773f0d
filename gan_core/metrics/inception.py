"""The Inception network that defines the FID (Heusel et al. 2017), and the feature extractor around it.

The network is TensorFlow's graph of 2015-12-05 with its peculiarities: average pooling excludes the padding, the last block
uses max pooling, and batch norm has no gamma (here it is folded into the convolutions). Submodules are named as in that
graph.
"""

import logging
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.config import check
from gan_core.download.weights import INCEPTION_SHA256, inception_file, torchscript_tensors
from gan_core.errors import SettingsError
from gan_core.files import sha256_json
from gan_core.metrics.protocol import FEATURES
from gan_core.metrics.resize import resize_clean, resize_tf1
from gan_core.precision import has_bf16, true_fp32

log = logging.getLogger(__name__)

SIDE = 299
RESIZE = f"tf1-bilinear-{SIDE}"
CLEAN = f"clean-bicubic-{SIDE}"
RESIZES = {"tf1": RESIZE, "clean": CLEAN}
"""Resize by the name of the setting: that of the original network, or that of clean-fid."""
Precision = Literal["fp32", "bf16"]

_PREFIX = "net.layers."
_EPSILON = 1e-3
# Part of every extractor's digest: increase it when a change here changes features beyond rounding.
_VERSION = 1


class Conv(nn.Conv2d):
    """A convolution with folded batch norm, then ReLU. Padding keeps the size, unless ``valid``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, valid: bool = False
    ) -> None:
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (sides[0] // 2, sides[1] // 2)
        super().__init__(inputs, outputs, sides, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H', W')."""
        return super().forward(x).relu_()


class PooledConv(nn.Module):
    """A 1x1 convolution of 3x3 averages.

    The two operations commute. The convolution runs first, because its output has fewer channels to average.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        unpooled = F.conv2d(x, self.conv.weight, self.conv.bias)
        return F.avg_pool2d(unpooled, 3, stride=1, padding=1, count_include_pad=False).relu_()


class BlockA(nn.Module):
    """35x35: 1x1, 5x5 and double 3x3 convolutions beside an average pool."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, 64, 1)
        self.tower = _named(Conv(inputs, 48, 1), Conv(48, 64, 5))
        self.tower_1 = _named(Conv(inputs, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3))
        self.tower_2 = PooledConv(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 35, 35) to (N, 224 + pooled, 35, 35)."""
        return torch.cat([self.conv(x), self.tower(x), self.tower_1(x), self.tower_2(x)], 1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, 384, 3, stride=2, valid=True)
        self.tower = _named(Conv(inputs, 64, 1), Conv(64, 96, 3), Conv(96, 96, 3, stride=2, valid=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 35, 35) to (N, 480 + inputs, 17, 17)."""
        return torch.cat([self.conv(x), self.tower(x), F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17x17: 7x7 convolutions factorised into 1x7 and 7x1, beside an average pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide, high = (1, 7), (7, 1)
        self.conv = Conv(768, 192, 1)
        self.tower = _named(Conv(768, width, 1), Conv(width, width, wide), Conv(width, 192, high))
        self.tower_1 = _named(
            Conv(768, width, 1),
            Conv(width, width, high),
            Conv(width, width, wide),
            Conv(width, width, high),
            Conv(width, 192, wide),
        )
        self.tower_2 = PooledConv(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, 17, 17) to the same shape."""
        return torch.cat([self.conv(x), self.tower(x), self.tower_1(x), self.tower_2(x)], 1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = _named(Conv(768, 192, 1), Conv(192, 320, 3, stride=2, valid=True))
        self.tower_1 = _named(
            Conv(768, 192, 1), Conv(192, 192, (1, 7)), Conv(192, 192, (7, 1)), Conv(192, 192, 3, stride=2, valid=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 768, 17, 17) to (N, 1280, 8, 8)."""
        return torch.cat([self.tower(x), self.tower_1(x), F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8x8: branches that fork into 1x3 and 3x1.

    The last block of the network uses max pooling, a mistake of the original that is part of the definition of the FID.
    """

    def __init__(self, inputs: int, pool: Literal["average", "maximum"]) -> None:
        super().__init__()
        self.pool = pool
        wide, high = (1, 3), (3, 1)
        self.conv = Conv(inputs, 320, 1)
        self.tower_conv = Conv(inputs, 384, 1)
        self.tower_mixed_conv = Conv(384, 384, wide)
        self.tower_mixed_conv_1 = Conv(384, 384, high)
        self.tower_1_conv = Conv(inputs, 448, 1)
        self.tower_1_conv_1 = Conv(448, 384, 3)
        self.tower_1_mixed_conv = Conv(384, 384, wide)
        self.tower_1_mixed_conv_1 = Conv(384, 384, high)
        # The weights file names this convolution "tower_2_conv", also where it is "tower_2_conv.conv" here.
        self.tower_2_conv = PooledConv(inputs, 192) if pool == "average" else Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, 8, 8) to (N, 2048, 8, 8)."""
        fork = self.tower_conv(x)
        fork_1 = self.tower_1_conv_1(self.tower_1_conv(x))
        pooled = self.tower_2_conv(x if self.pool == "average" else F.max_pool2d(x, 3, stride=1, padding=1))
        branches = [
            self.conv(x),
            self.tower_mixed_conv(fork),
            self.tower_mixed_conv_1(fork),
            self.tower_1_mixed_conv(fork_1),
            self.tower_1_mixed_conv_1(fork_1),
            pooled,
        ]
        return torch.cat(branches, 1)


class Inception(nn.Module):
    """The network up to the layer with ``features`` outputs; later layers are not built."""

    def __init__(self, features: int = 2048) -> None:
        super().__init__()
        check(features in FEATURES, f"features: must be one of {', '.join(map(str, FEATURES))}, got {features}.")
        layers: list[tuple[str, nn.Module]] = [
            ("conv", Conv(3, 32, 3, stride=2, valid=True)),
            ("conv_1", Conv(32, 32, 3, valid=True)),
            ("conv_2", Conv(32, 64, 3)),
            ("pool0", nn.MaxPool2d(3, stride=2)),
        ]
        if features >= 192:
            layers += [
                ("conv_3", Conv(64, 80, 1)),
                ("conv_4", Conv(80, 192, 3, valid=True)),
                ("pool1", nn.MaxPool2d(3, stride=2)),
            ]
        if features >= 768:
            layers += [
                ("mixed", BlockA(192, 32)),
                ("mixed_1", BlockA(256, 64)),
                ("mixed_2", BlockA(288, 64)),
                ("mixed_3", BlockB(288)),
            ]
            layers += [(f"mixed_{4 + index}", BlockC(width)) for index, width in enumerate((128, 160, 160, 192))]
        if features >= 2048:
            layers += [
                ("mixed_8", BlockD()),
                ("mixed_9", BlockE(1280, "average")),
                ("mixed_10", BlockE(2048, "maximum")),
            ]
        self.layers = _named_layers(layers)
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, 299, 299) in [-1, 1] to float32 (N, features): the mean over the last layer's positions."""
        return self.layers(x).float().mean((2, 3))

    def load_and_fold_batch_norm(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights with separate batch norms (``NAME.weight``, ``.beta``, ``.mean``, ``.var``), and fold them.

        Folding is done in float64, so that the result differs from the unfolded network only by float32 rounding.

        Raises:
            SettingsError: a tensor is missing or has a different shape.
        """
        for name, module in self.layers.named_modules():
            if isinstance(module, Conv):
                stored = _PREFIX + name.replace("tower_2_conv.conv", "tower_2_conv")
                try:
                    weight, beta, mean, var = (
                        tensors[f"{stored}.{part}"].double() for part in ("weight", "beta", "mean", "var")
                    )
                except KeyError as error:
                    raise SettingsError(
                        f"The Inception weights have no tensor {error}. Delete the cached file, so that it is fetched again."
                    ) from error
                if weight.shape != module.weight.shape or module.bias is None:
                    raise SettingsError(
                        f"The Inception weights of {name} have shape {tuple(weight.shape)}, expected "
                        f"{tuple(module.weight.shape)}. Delete the cached file, so that it is fetched again."
                    )
                scale = (var + _EPSILON).rsqrt()
                module.weight.data.copy_(weight * scale[:, None, None, None])
                module.bias.data.copy_(beta - mean * scale)


class Extractor:
    """Feature extractor: resizes and scales pictures and runs the network. Its digest covers all of these steps."""

    def __init__(
        self,
        network: Inception,
        *,
        features: int,
        precision: Precision,
        device: torch.device,
        weights: str,
        resize: str = RESIZE,
    ) -> None:
        """Move ``network`` to ``device``. ``weights``: SHA-256 of the file of weights; ``resize``: a value of RESIZES."""
        self.resize = resize
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.network = network.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.features = features
        self.precision: Precision = precision
        self.device = device
        self.digest = sha256_json(["inception-2015", _VERSION, weights, features, precision])
        self.batch_size = 16 if device.type == "cpu" else 256
        """Default batch size, large enough to keep this device busy."""

    @torch.inference_mode()
    def prepare(self, images: Tensor) -> Tensor:
        """Convert pictures of one size to the network's input.

        Args:
            images: uint8 (N, C, H, W) with 1 channel (grey), 3 (RGB) or 4 (RGBA, composited on white).

        Returns:
            (N, 3, 299, 299) on the extractor's device, (value - 128) / 128.
        """
        check(
            images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3, 4),
            f"Pictures must be uint8 (N, C, H, W) with 1, 3 or 4 channels, got {images.dtype} {tuple(images.shape)}.",
        )
        images = images.to(self.device)
        if images.shape[1] == 4:
            images = composite_on_white(images)
        # Scale before resizing: the result is exact in float32, and there are fewer values.
        with true_fp32:
            inputs = self._resized((images.float() - 128) / 128)
        return inputs.expand(-1, 3, -1, -1)

    @torch.inference_mode()
    def prepare_float(self, images: Tensor) -> Tensor:
        """Like :meth:`prepare`, for float images (N, C, H, W) in [-1, 1] with 1 or 3 channels, which are not rounded.

        Raises:
            SettingsError: the number of channels is not 1 or 3.
        """
        check(
            images.ndim == 4 and images.shape[1] in (1, 3),
            f"Float pictures must be (N, C, H, W) with 1 or 3 channels, got {tuple(images.shape)}.",
        )
        pixels = (images.to(self.device).float().clamp(-1, 1) + 1) * 127.5
        with true_fp32:
            return self._resized((pixels - 128) / 128).expand(-1, 3, -1, -1)

    @torch.inference_mode()
    def extract(self, inputs: Tensor) -> Tensor:
        """Features of the output of :meth:`prepare`: float32 (N, features) on the extractor's device."""
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        with true_fp32:
            return self.network(inputs.to(self.device, dtype).contiguous(memory_format=torch.channels_last))

    def _resized(self, inputs: Tensor) -> Tensor:
        """Resize pictures of the network's range, (value - 128) / 128, to its input size."""
        return resize_clean(inputs, SIDE, SIDE) if self.resize == CLEAN else resize_tf1(inputs, SIDE, SIDE)

    def __call__(self, images: Tensor) -> Tensor:
        """Features, float32 (N, features), of uint8 pictures (N, C, H, W), in batches of ``batch_size``."""
        return torch.cat([self.extract(self.prepare(part)) for part in images.split(self.batch_size)])


def load_inception(
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    features: int = 2048,
    resize: Literal["tf1", "clean"] = "tf1",
) -> Extractor:
    """Load the FID Inception as an extractor; fetch its weights if they are not in the cache.

    Args:
        device: a device, or its name in torch.
        precision: ``fp32``, or ``bf16`` for the objective of a search: faster on devices with bf16 instructions, and not
            for published figures.
        features: 64, 192, 768 or 2048.
        resize: ``tf1``, the bilinear resize that the network was published with, or ``clean``, the antialiased bicubic one of
            clean-fid (Parmar et al. 2022).

    Raises:
        SettingsError: the precision, the resize or the number of features is not one of these.
        FetchError: the weights cannot be fetched.
    """
    device = torch.device(device)
    check(precision in ("fp32", "bf16"), f"precision: must be fp32 or bf16, got {precision!r}.")
    check(resize in RESIZES, f"resize: must be {' or '.join(RESIZES)}, got {resize!r}.")
    network = Inception(features)
    network.load_and_fold_batch_norm(torchscript_tensors(inception_file()))
    if precision == "bf16" and not has_bf16(device):
        log.warning(
            "This %s has no bf16 instructions: Inception in bf16 is emulated and slower than fp32.", device.type
        )
    return Extractor(
        network,
        features=features,
        precision=precision,
        device=device,
        weights=INCEPTION_SHA256,
        resize=RESIZES[resize],
    )


def composite_on_white(images: Tensor) -> Tensor:
    """Composite RGBA, uint8 (N, 4, H, W), on white: RGB, uint8 (N, 3, H, W).

    Uses the integer arithmetic of decoding a picture file to three channels.
    """
    colour, alpha = images[:, :3].int(), images[:, 3:].int()
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)


def _named(*convolutions: Conv) -> nn.Sequential:
    """A sequence with the graph's names: conv, conv_1, conv_2, ..."""
    return _named_layers([(f"conv_{index}" if index else "conv", module) for index, module in enumerate(convolutions)])


def _named_layers(layers: list[tuple[str, nn.Module]]) -> nn.Sequential:
    sequence = nn.Sequential()
    for name, module in layers:
        sequence.add_module(name, module)
    return sequence
