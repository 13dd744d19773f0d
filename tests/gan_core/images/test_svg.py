"""An SVG is rendered to pixels with its proportions, transparent where nothing is drawn, from the file alone."""

import base64
import functools
import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_core.errors import DataError
from gan_core.images import sandbox
from gan_core.images.pictures import PictureError
from gan_core.images.svg import LONGER_SIDE, MAX_DEPTH, render, self_contained
from pipelines.data.ingest import ingest
from pipelines.data.readers import list_pictures, read_note
from pipelines.settings.ingest import IngestSettings
from tests.pipelines.data.samples import png, write

FLAG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><rect width="20" height="20" fill="{}"/></svg>'
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 10">'
RED = [255, 0, 0, 255]
CLEAR = [0, 0, 0, 0]
WHOLE = 'width="10" height="10"'


def svg(body: str, before: str = "") -> bytes:
    return f"{before}{HEAD}{body}</svg>".encode()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def red() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, "PNG")
    return content.getvalue()


def centre(content: bytes) -> list[int]:
    pixels = render(content)
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].tolist()


def test_the_longer_side_has_a_fixed_length_and_the_shape_is_kept() -> None:
    pixels = render(FLAG.format("#ff8000").encode())
    assert pixels.shape == (4, LONGER_SIDE // 2, LONGER_SIDE)
    assert pixels[:, 10, 10].tolist() == [255, 128, 0, 255]
    assert not pixels[3, :, LONGER_SIDE // 2 + 1 :].any()


@pytest.mark.parametrize(("unit", "half"), [("in", 0.5), ("cm", 1.27), ("mm", 12.7), ("pt", 36), ("pc", 3), ("px", 48)])
def test_lengths_may_have_any_unit(unit: str, half: float) -> None:
    """An inch is 96 pixels, as in CSS. Drawing programs and plotting libraries write millimetres and points."""
    body = f'<rect width="{half}{unit}" height="{2 * half}{unit}" fill="#ff0000"/>'
    size = f'width="{2 * half}{unit}" height="{2 * half}{unit}"'
    pixels = render(f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'.encode())
    assert pixels.shape == (4, LONGER_SIDE, LONGER_SIDE)
    assert pixels[:, 128, 100].tolist() == [255, 0, 0, 255]
    assert pixels[:, 128, 156].tolist() == CLEAR


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "corrupt"), (b"<html/>", "corrupt"), (b"<svg", "corrupt"), (b"\xff\xfe", "not-an-image")],
)
def test_a_broken_svg_is_refused_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        render(content)


def test_extreme_proportions_take_no_more_memory() -> None:
    assert max(render(FLAG.replace("40 20", "1 9000000").format("red").encode()).shape[1:]) <= LONGER_SIDE
    huge = b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"><rect width="9" height="9"/></svg>'
    assert max(render(huge).shape) <= LONGER_SIDE


def test_svg_files_are_ingested_only_if_there_are_no_other_pictures(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for side, colour in (("line", "black"), ("colour", "red")):
        write(raw / side / "a.svg", FLAG.format(colour).encode())
    settings = IngestSettings(kind="paired", condition_side="second", condition_channels=1, size=(8, 16))
    info = ingest(raw, tmp_path / "out", settings, name="x")
    assert (info.splits, info.condition_channels) == ({"train": 1}, 1)
    np.testing.assert_allclose(info.mean, [1, 0.5, 0.5], atol=0.05)
    write(raw / "line" / "photo.png", png(1))
    listing = list_pictures(raw, read_note(raw))
    assert [entry.file for entry in listing.entries] == ["line/photo.png"]
    assert len(listing.ignored) == 2


# Nothing outside the file is shown


@pytest.mark.parametrize(
    "body",
    [
        '<image href="{file}" {whole}/>',
        '<image xlink:href="{file}" {whole}/>',
        '<image href="file://{file}" {whole}/>',
        '<image href=" {up} " {whole}/>',
        '<image href="secret.png" {whole}/>',
        '<image href="https://example.org/secret.png" {whole}/>',
        '<filter id="f"><feImage href="{file}"/></filter><rect {whole} filter="url(#f)"/>',
        '<use href="other.svg#a"/>',
        '<image href="/dev/zero" {whole}/>',
        '<image href="{pipe}" {whole}/>',
    ],
)
def test_a_reference_to_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    write(tmp_path / "secret.png", red())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    if "{file}" not in body:
        sandbox.close_workers()  # one that starts here has this as its current folder
    file, pipe = tmp_path / "secret.png", tmp_path / "pipe"
    up = os.path.relpath(file, tmp_path / "here" / "deeper")
    with pytest.raises(PictureError, match="external-reference: .* which is not part of the file; embed it"):
        render(svg(body.format(file=file, pipe=pipe, up=up, whole=WHOLE)))


def test_a_reference_in_an_entity_or_an_embedded_svg_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", red())
    entity = f'<!DOCTYPE svg [<!ENTITY place "{tmp_path}/secret.png">]>'
    inner = svg(f'<image href="{tmp_path}/secret.png" {WHOLE}/>')
    for content in (
        svg(f'<image href="&place;" {WHOLE}/>', entity),
        svg(f'<image href="{data_uri(inner, "image/svg+xml")}" {WHOLE}/>'),
    ):
        with pytest.raises(PictureError, match=r"external-reference: <image> shows .*secret\.png"):
            render(content)


@pytest.mark.parametrize(
    "before",
    [
        '<!DOCTYPE svg [<!ENTITY place SYSTEM "{file}">]>',
        '<!DOCTYPE svg SYSTEM "{file}">',
        '<!DOCTYPE svg [<!ENTITY % all SYSTEM "{file}"> %all;]>',
        '<?xml-stylesheet href="{file}"?>',
    ],
)
def test_the_renderer_is_given_no_document_type_and_no_stylesheet_of_another_file(tmp_path: Path, before: str) -> None:
    write(tmp_path / "secret", b"hidden words")
    text = self_contained(svg(f"<rect {WHOLE}/>", before.format(file=tmp_path / "secret")))
    assert "hidden" not in text
    assert "<!" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "body",
    [
        '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{file}"/>',
        '<style>@import url("{file}"); image {{ href: url({file}) }}</style><image {whole}/>',
        '<style>@font-face {{ font-family: x; src: url({file}) }}</style><text y="9" font-family="x">MMM</text>',
        '<rect {whole} fill="none" stroke="url({file}#g)" style="mask: url({file}#m)"/>',
        '<a href="{file}"><rect {whole} fill="none"/></a>',
        '<script href="{file}"/>',
        "<foreignObject {whole}><img xmlns='http://www.w3.org/1999/xhtml' src='{file}'/></foreignObject>",
    ],
)
def test_other_mentions_of_a_file_are_not_rendered(tmp_path: Path, body: str) -> None:
    write(tmp_path / "secret.png", red())
    assert centre(svg(body.format(file=tmp_path / "secret.png", whole=WHOLE))) == CLEAR


def test_the_renderer_itself_could_not_open_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the check misses a reference to a file, the kernel still refuses to open it."""
    write(tmp_path / "secret.png", red())
    content = svg(f'<image href="{tmp_path}/secret.png" {WHOLE}/>')
    assert sandbox.call_decoder(drawn_unchecked, content) == CLEAR
    monkeypatch.setattr("gan_core.images.svg.self_contained", bytes.decode)
    assert centre_here(content) == RED, "what the test above rests on: the renderer does open files, where it may"


def drawn_unchecked(content: bytes) -> list[int]:
    from gan_core.images import svg

    svg.self_contained, checked = bytes.decode, svg.self_contained  # type: ignore[assignment]
    try:
        return centre(content)
    finally:
        svg.self_contained = checked


def centre_here(content: bytes) -> list[int]:
    from gan_core.images.svg import _render

    return _render(content)[:, LONGER_SIDE // 2, LONGER_SIDE // 2].tolist()


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "", "application/octet-stream"])
def test_an_embedded_picture_is_rendered_whatever_type_is_stated(kind: str) -> None:
    assert render(embedding("PNG", kind))[:, 128, 128].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_an_embedded_picture_that_the_renderer_would_omit_is_refused(form: str) -> None:
    with pytest.raises(
        PictureError, match=f"unsupported: .*image/{form.lower()}.* is not a PNG, JPEG, GIF or WebP; convert"
    ):
        render(embedding(form, f"image/{form.lower()}"))


def embedding(form: str, kind: str) -> bytes:
    """An SVG that only shows an embedded red picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, form)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><image width="8" height="8" '
        f'href="data:{kind};base64,{data}"/></svg>'
    ).encode()


def test_internal_references_are_rendered() -> None:
    assert centre(svg(f'<image href="{data_uri(red())}" {WHOLE}/>')) == RED
    assert centre(svg(f'<image xlink:href="{data_uri(red())}" {WHOLE}/>')) == RED
    inner = svg(f'<rect {WHOLE} fill="red"/>')
    assert centre(svg(f'<image href="{data_uri(inner, "image/svg+xml")}" {WHOLE}/>')) == RED
    assert centre(svg(f'<defs><rect id="r" {WHOLE} fill="red"/></defs><use xlink:href="#r"/>')) == RED
    assert centre(svg(f'<style><!-- rect {{ fill: red }} --></style><rect {WHOLE} fill="red"/>')) == RED
    assert centre(svg(f"<style>rect {{ fill: red }}</style><rect {WHOLE}/>")) == RED
    assert centre(svg(f'<rect {WHOLE} fill="&colour;"/>', '<!DOCTYPE svg [<!ENTITY colour "red">]>')) == RED


# An SVG cannot exceed the limits of a worker


@functools.cache
def bombs() -> dict[str, tuple[bytes, str]]:
    levels = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    vast = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(vast, "PNG")
    uses = "".join(f'<g id="g{i}">' + f'<use href="#g{i + 1}"/>' * 10 + "</g>" for i in range(9))
    return {
        "entities": (svg("<desc>&j;</desc>", f'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">{levels}]>'), "corrupt"),
        "nesting": (svg("<g>" * 100_000 + "</g>" * 100_000), "corrupt: SVG: elements nested more than 200 deep"),
        "uses": (svg(f'{uses}<rect id="g9" {WHOLE}/>'), "corrupt"),
        "masks": (
            svg(
                "".join(f'<mask id="m{i}"><rect {WHOLE} mask="url(#m{i + 1})"/></mask>' for i in range(3000))
                + f'<rect {WHOLE} mask="url(#m0)"/>'
            ),
            "crashed",
        ),
        "embedded pixels": (svg(f'<image href="{data_uri(vast.getvalue())}" {WHOLE}/>'), "too-many-pixels"),
        "embedded gzip": (
            svg(f'<image href="{data_uri(gzip.compress(svg("")), "image/svg+xml")}" {WHOLE}/>'),
            "not-an-image",
        ),
        "embedded twice": (
            svg(
                f'<image href="{data_uri(svg(f"""<image href="{data_uri(svg(""), "image/svg+xml")}"/>"""), "image/svg+xml")}"/>'
            ),
            "corrupt",
        ),
    }


@pytest.mark.parametrize("name", sorted(bombs()))
def test_a_bomb_is_refused(name: str) -> None:
    content, words = bombs()[name]
    with pytest.raises(PictureError, match=words):
        render(content)


def test_the_deepest_allowed_nesting_is_rendered() -> None:
    depth = MAX_DEPTH - 2
    assert centre(svg("<g>" * depth + f'<rect {WHOLE} fill="red"/>' + "</g>" * depth)) == RED


def test_patterns_and_uses_that_refer_to_themselves_terminate() -> None:
    render(
        svg(
            f'<pattern id="p" width="1" height="1"><rect {WHOLE} fill="url(#p)"/></pattern><rect {WHOLE} fill="url(#p)"/>'
        )
    )
    render(svg('<g id="a"><use href="#a"/></g>'))


def test_ingestion_skips_an_svg_that_crashes_its_worker(tmp_path: Path) -> None:
    for index in range(5):
        write(tmp_path / "raw" / f"{index}.svg", FLAG.format(f"#{index}00").encode())
    write(tmp_path / "raw" / "bomb.svg", bombs()["masks"][0])
    write(tmp_path / "raw" / "reads.svg", svg(f'<image href="/etc/passwd" {WHOLE}/>'))
    info = ingest(tmp_path / "raw", tmp_path / "out", IngestSettings(max_reject_share=0.5), name="x")
    assert info.splits == {"train": 5}
    assert info.rejects == {"crashed": 1, "external-reference": 1}
    assert "bomb.svg,crashed,the decoder crashed (SIGSEGV)" in (tmp_path / "out/rejects.csv").read_text()


def test_ingestion_stops_if_svg_after_svg_crashes_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.data.rejects._MIN_DECODER_FAILURES", 1)
    for index in range(5):
        write(tmp_path / "raw" / f"{index:02d}.svg", bombs()["masks"][0])
    words = r"raw: ingestion stops because the decoder failed on 2 pictures: .*\.svg \(crashed: .*Remove them, or raise"
    with pytest.raises(DataError, match=words):
        ingest(tmp_path / "raw", tmp_path / "out", IngestSettings(), name="x")
    assert not (tmp_path / "out").exists()
