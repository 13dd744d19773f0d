"""Small exported generators, and a client of the page's server for each."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from gan_core.inference.generator import load_generator, save_generator
from pipelines.play.server import make_app
from pipelines.play.session import Session
from tests.gan_core.families.conftest import SMALL, small
from tests.gan_core.families.translations import VARIANTS
from tests.pipelines.translators import export

TOKEN = "the-token"
Open = Callable[..., TestClient]


def export_small(name: str, folder: Path) -> Path:
    """A small generator with fresh weights, from noise or of translation."""
    if name in VARIANTS:
        return export(folder, name)
    family = small(name)
    save_generator(folder, family=family, extra={"classes": ["shoe", "shirt"]} if family.conditional else {})
    return folder


@pytest.fixture
def open_page(tmp_path: Path) -> Open:
    """Opens the page of a generator; ``token`` and ``host``: those that the client sends."""

    def opened(name: str, *, token: str = TOKEN, host: str = "127.0.0.1:8000") -> TestClient:
        assert name in SMALL or name in VARIANTS
        folder = tmp_path / name
        session = Session(load_generator(folder if folder.exists() else export_small(name, folder)), name)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return TestClient(make_app(session, TOKEN), base_url=f"http://{host}", headers=headers)

    return opened


def png(pixels: np.ndarray | None = None, size: tuple[int, int] = (20, 24)) -> bytes:
    """A PNG of ``pixels``, uint8 (H, W) or (H, W, C), or of colours of ``size`` (height, width)."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
