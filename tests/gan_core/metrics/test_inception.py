"""Our Inception equals the FID Inception, for grey, RGB and RGBA pictures of any size."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from gan_core.errors import SettingsError
from gan_core.images.pictures import decode
from gan_core.metrics.inception import FEATURES, Extractor, Inception, PooledConv, load_inception


def photographs() -> torch.Tensor:
    """Six crops of two photographs, uint8 (6, 3, 150, 200)."""
    crops = [
        image[y : y + 150, x : x + 200]
        for image in load_sample_images().images
        for y, x in [(0, 0), (150, 200), (250, 400)]
    ]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def digits() -> torch.Tensor:
    """Six handwritten digits, uint8 (6, 1, 8, 8)."""
    return torch.from_numpy((load_digits().images[:6] * 15).astype(np.uint8))[:, None]


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest error relative to each feature, or to the mean feature where that is larger (ReLU makes zeros)."""
    return float(((found - wanted).abs() / wanted.abs().clamp_min(wanted.mean())).max())


@pytest.mark.weights
@pytest.mark.parametrize("pictures", [photographs, digits], ids=["photographs", "digits"])
def test_features_equal_the_torchscript_networks(pictures, real_extractor: Extractor, weights_file: Path) -> None:
    inputs = real_extractor.prepare(pictures())
    with torch.inference_mode():
        wanted = torch.jit.load(str(weights_file))(inputs.contiguous())
    found = real_extractor.extract(inputs)
    assert found.shape == (6, 2048)
    assert found.dtype == torch.float32
    assert difference(found, wanted) < 1e-4


@pytest.mark.weights
def test_smaller_features_are_means_of_the_torchscript_networks_layers(weights_file: Path) -> None:
    layers = dict(torch.jit.load(str(weights_file)).net.layers.named_children())
    names = list(layers)
    ends = {64: "pool0", 192: "pool1", 768: "mixed_7"}
    extractors = {features: load_inception(features=features) for features in ends}
    x = extractors[64].prepare(digits()[:2]).contiguous()
    with torch.inference_mode():
        for name in names[: names.index("mixed_7") + 1]:
            x = layers[name](x)
            for features in [features for features, end in ends.items() if end == name]:
                found = extractors[features](digits()[:2])
                assert found.shape == (2, features)
                assert difference(found, x.mean((2, 3))) < 1e-4


def test_each_layer_and_precision_has_its_own_digest(small_extractor: Extractor) -> None:
    def digest(features: int = 64, precision="fp32", weights: str = "w") -> str:
        device = torch.device("cpu")
        return Extractor(
            Inception(features), features=features, precision=precision, device=device, weights=weights
        ).digest

    assert digest() == digest()
    assert len({digest(), digest(192), digest(precision="bf16"), digest(weights="v")}) == 4


def test_batch_norm_is_folded_into_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    network = Inception(64)
    x = torch.randn(2, 3, 75, 75, generator=generator)
    tensors, wanted = {}, x
    for name, stride, padding in [("conv", 2, 0), ("conv_1", 1, 0), ("conv_2", 1, 1)]:
        shape = network.layers.get_submodule(name).weight.shape
        weight, beta, mean = (torch.randn(size, generator=generator) for size in (shape, shape[:1], shape[:1]))
        var = torch.rand(shape[0], generator=generator) + 0.1
        tensors |= {
            f"net.layers.{name}.{part}": value
            for part, value in zip(["weight", "beta", "mean", "var"], [weight, beta, mean, var], strict=True)
        }
        wanted = F.batch_norm(
            F.conv2d(wanted, weight, stride=stride, padding=padding), mean, var, None, beta, eps=1e-3
        ).relu()
    network.load_and_fold_batch_norm(tensors)
    assert torch.allclose(network(x), F.max_pool2d(wanted, 3, 2).mean((2, 3)), rtol=1e-4, atol=1e-3)
    with pytest.raises(SettingsError, match="conv_1"):
        network.load_and_fold_batch_norm({name: value for name, value in tensors.items() if "conv_1" not in name})


def test_pooling_commutes_with_the_convolution() -> None:
    torch.manual_seed(0)
    pooled = PooledConv(8, 4)
    x = torch.randn(2, 8, 5, 6)
    averages = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    assert torch.allclose(pooled(x), pooled.conv(averages), atol=1e-5)


def test_the_input_is_scaled_as_in_the_original_graph(small_extractor: Extractor) -> None:
    values = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 3, 4, 4)
    inputs = small_extractor.prepare(values)
    assert inputs.shape == (3, 3, 299, 299)
    assert inputs[:, 0, 0, 0].tolist() == [-1.0, 0.0, 127 / 128]


def test_grey_is_repeated_and_transparency_is_composited_on_white(small_extractor: Extractor) -> None:
    grey = torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8)
    assert torch.equal(small_extractor.prepare(grey), small_extractor.prepare(grey.repeat(1, 3, 1, 1)))
    clear = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(clear).save(buffer, "PNG")
    decoded = torch.from_numpy(decode(buffer.getvalue(), 3))[None]
    of_tensor = small_extractor.prepare(torch.from_numpy(clear).permute(2, 0, 1)[None])
    # At most one grey level of 255 apart, because Pillow rounds with its own integer arithmetic.
    assert (small_extractor.prepare(decoded) - of_tensor).abs().max() <= 1 / 128


def test_features_do_not_depend_on_the_batch(small_extractor: Extractor) -> None:
    pictures = torch.randint(0, 256, (small_extractor.batch_size + 3, 3, 8, 8), dtype=torch.uint8)
    together = small_extractor(pictures)
    assert together.shape == (len(pictures), 64)
    assert torch.allclose(together[-2:], small_extractor(pictures[-2:]), rtol=1e-4, atol=1e-5)


def test_bf16_gives_nearly_the_same_features_in_float32(small_extractor: Extractor) -> None:
    torch.manual_seed(0)
    low = Extractor(Inception(64), features=64, precision="bf16", device=torch.device("cpu"), weights="random")
    found, wanted = low(photographs()[:2]), small_extractor(photographs()[:2])
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.02


def test_extracting_leaves_torchs_precision_settings_alone(small_extractor: Extractor) -> None:
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul, torch.backends.mkldnn.conv)
    before = [backend.fp32_precision for backend in backends]
    with ThreadPoolExecutor(8) as pool:  # the settings are global to the process: threads must not restore each other's
        list(pool.map(small_extractor, [torch.zeros(1, 1, 4, 4, dtype=torch.uint8)] * 32))
    assert [backend.fp32_precision for backend in backends] == before
    assert torch.backends.cudnn.allow_tf32 in (True, False)  # raises when new and old settings disagree


def test_input_that_is_not_a_picture_is_an_error(small_extractor: Extractor) -> None:
    with pytest.raises(SettingsError, match="uint8"):
        small_extractor(torch.zeros(1, 3, 8, 8))
    with pytest.raises(SettingsError, match=r"\(1, 2, 8, 8\)"):
        small_extractor(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))
    with pytest.raises(SettingsError, match="features: must be one of 64, 192, 768, 2048, got 100"):
        Inception(100)
    with pytest.raises(SettingsError, match="precision"):
        load_inception(precision="fp16")  # type: ignore[arg-type]


def test_the_numbers_of_features_are_those_of_pytorch_fid() -> None:
    assert FEATURES == (64, 192, 768, 2048)
    assert not any(name.startswith("mixed") for name, _ in Inception(192).layers.named_children())
