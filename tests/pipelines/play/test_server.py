"""The server answers the page of this machine that has the token, and nothing else; a wrong request is a plain error."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from gan_core.inference.generator import load_generator
from gan_core.inference.provenance import read_provenance
from pipelines.play import server, session
from tests.pipelines.play.conftest import TOKEN, Open, png


def pixels(content: bytes) -> torch.Tensor:
    """The pixels of a PNG, (C, H, W)."""
    array = np.array(Image.open(io.BytesIO(content)))
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def upload(page: TestClient, content: bytes, use: str) -> dict[str, Any]:
    return page.post("/api/pictures", params={"use": use}, content=content).json()


# -- who may ask -------------------------------------------------------------------------------------------------------


def test_the_page_is_static_and_the_generator_needs_the_token(open_page: Open) -> None:
    for token in ("", "wrong", f"{TOKEN} "):
        page = open_page("dcgan", token=token)
        assert page.get("/").status_code == 200
        assert "dcgan" not in page.get("/").text
        for path in ("/api/model", "/api/nothing"):
            assert page.get(path).status_code == 401
            assert page.get(path).json() == {
                "error": "The token is missing or wrong. Open the address that gantry play printed."
            }


def test_another_host_name_and_another_web_page_are_rejected_with_the_right_token(open_page: Open) -> None:
    assert open_page("dcgan", host="evil.example").get("/").status_code == 403
    page = open_page("dcgan")
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert page.get("/api/model", headers=headers).status_code == 403
    assert page.get("/api/model", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(open_page: Open) -> None:
    page = open_page("dcgan")
    for path in server.FILES:
        answer = page.get(path)
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


# -- what the page offers ----------------------------------------------------------------------------------------------


def test_only_the_controls_of_the_family_are_offered(open_page: Open) -> None:
    described = {name: open_page(name).get("/api/model").json() for name in ("dcgan", "cgan", "stylegan2")}
    noise = {name: told["noise"] for name, told in described.items()}
    assert {name: told["classes"] for name, told in described.items()} == {
        "dcgan": [],
        "cgan": ["shoe", "shirt"],
        "stylegan2": ["shoe", "shirt"],
    }
    assert {name: (told["layers"], told["space"], len(told["parts"])) for name, told in noise.items()} == {
        "dcgan": (0, "z", 1),
        "cgan": (0, "z", 1),
        "stylegan2": (6, "w", 4),
    }
    told = {
        name: open_page(name).get("/api/model").json()["translation"]
        for name in ("pix2pix", "cyclegan", "attributes", "stargan2")
    }
    assert {name: [of["name"] for of in one["targets"]] for name, one in told.items()} == {
        "pix2pix": [],
        "cyclegan": ["cat", "dog"],
        "attributes": ["cat", "dog", "owl"],
        "stargan2": ["cat", "dog", "owl"],
    }
    assert {name for name, one in told.items() if one["reference"]} == {"stargan2"}
    assert {name for name, one in told.items() if one["attributes"]} == {"attributes"}
    assert told["stargan2"]["seeded"]
    assert not told["cyclegan"]["seeded"]
    assert "colours" in open_page("colourisation").get("/api/model").json()["translation"]["hint"]


# -- from noise --------------------------------------------------------------------------------------------------------


def test_a_sample_is_that_of_gantry_sample_and_carries_its_trace(open_page: Open, tmp_path: Path) -> None:
    page = open_page("stylegan2")
    request = {"seed": 5, "label": 1, "truncation": 0.7}
    content = page.post("/api/sample", json=request).content
    generator = load_generator(tmp_path / "stylegan2")
    assert torch.equal(pixels(content), generator.sample(1, 5, 1, 0.7)[0])
    moved = {**request, "moves": {"all": [0, 1.5], "fine": [0]}, "mix_seed": 2, "crossover": 3}
    (tmp_path / "moved.png").write_bytes(page.post("/api/sample", json=moved).content)
    assert read_provenance(tmp_path / "moved.png") == {
        "generator": generator.digest,
        "index": 0,
        **request,
        "mix_seed": 2,
        "crossover": 3,
        "moves": {"all": [0.0, 1.5]},
    }


@pytest.mark.parametrize(("name", "label"), [("stylegan2", {"label": 1}), ("r3gan", {})])
def test_a_picture_is_projected_and_edited(open_page: Open, tmp_path: Path, name: str, label: dict[str, int]) -> None:
    page = open_page(name)
    target = page.post("/api/sample", json={"seed": 9, **label}).content
    number = upload(page, target, "project")["picture"]
    assert torch.equal(pixels(page.get(f"/api/pictures/{number}").content), pixels(target))
    started = page.post("/api/projections", json={"picture": number, **label, "steps": 80}).json()["projection"]
    deadline = time.monotonic() + 60
    while (now := page.get(f"/api/projections/{started}").json())["state"] == "running":
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    assert now["state"] == "done", now
    assert now["done"] == 80
    assert now["distance"] < 0.7 * now["before"]
    plain = page.post("/api/sample", json={"projection": started}).content
    moved = page.post("/api/sample", json={"projection": started, "moves": {"all": [4.0]}}).content
    away = (pixels(plain).float() - pixels(target).float()).square().mean().sqrt().item()
    assert away == pytest.approx(now["distance"], abs=1)
    assert not torch.equal(pixels(moved), pixels(plain))
    (tmp_path / "moved.png").write_bytes(moved)
    other = page.post("/api/sample", json={"projection": started, "label": 0})
    if label:
        assert "projected as another class" in other.json()["error"], "the styles are those of the class"
    made = read_provenance(tmp_path / "moved.png")
    assert made["projection"]["steps"] == 80
    assert len(made["projection"]["picture"]) == 64
    assert "seed" not in made


def test_a_second_projection_cancels_the_first(open_page: Open) -> None:
    page = open_page("stylegan2")
    number = upload(page, png(), "project")["picture"]
    first, second = (
        page.post("/api/projections", json={"picture": number, "label": 0, "steps": steps}).json()["projection"]
        for steps in (2000, 2)
    )
    deadline = time.monotonic() + 60
    while "running" in (states := [page.get(f"/api/projections/{of}").json()["state"] for of in (first, second)]):
        assert time.monotonic() < deadline, states
        time.sleep(0.05)
    assert states == ["failed", "done"]


def test_of_projections_that_start_at_once_one_is_searched(open_page: Open) -> None:
    page = open_page("stylegan2")
    number = upload(page, png(), "project")["picture"]
    request = {"picture": number, "label": 0, "steps": 2000}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: page.post("/api/projections", json=request).json(), range(6)))
    started = sorted(answer["projection"] for answer in answers)
    deadline = time.monotonic() + 60
    while (states := [page.get(f"/api/projections/{of}").json()["state"] for of in started]).count("running") > 1:
        assert time.monotonic() < deadline, states
        time.sleep(0.05)
    assert states == ["failed"] * 5 + ["running"]
    page.post("/api/projections", json={**request, "steps": 1})  # ends the search


# -- from pictures -----------------------------------------------------------------------------------------------------


def test_a_picture_is_translated_to_a_target_and_carries_its_trace(open_page: Open, tmp_path: Path) -> None:
    page = open_page("stargan2")
    uploaded = upload(page, png(), "translate")
    assert (uploaded["width"], uploaded["height"]) == (24, 20)
    request = {"picture": uploaded["picture"], "target": 1, "seed": 3}
    content = page.post("/api/translate", json=request).content
    generator = load_generator(tmp_path / "stargan2")
    assert torch.equal(pixels(content), generator.translate(pixels(png())[None], 1, 3)[0])
    (tmp_path / "translated.png").write_bytes(content)
    made = read_provenance(tmp_path / "translated.png")
    assert made == {
        "generator": generator.digest,
        "seed": 3,
        "target": 1,
        "picture": made["picture"],
    }
    reference = upload(page, png(size=(16, 16)), "reference")["picture"]
    styled = page.post("/api/translate", json={**request, "reference": reference}).content
    expected = generator.translate_like(pixels(png())[None], pixels(png(size=(16, 16)))[None], 1)[0]
    assert torch.equal(pixels(styled), expected)


def test_transparency_is_kept(open_page: Open) -> None:
    clear = np.full((16, 16, 4), 90, np.uint8)
    page = open_page("cyclegan")
    number = upload(page, png(clear), "translate")["picture"]
    made = pixels(page.post("/api/translate", json={"picture": number}).content)
    assert made.shape == (4, 16, 16)
    assert (made[3] == 90).all()


# -- wrong requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"sed": 1}, "Unknown setting 'sed'. Did you mean 'seed'?"),
        ({"seed": -1}, "seed: must be 0 or more, got -1."),
        ({"seed": "x"}, "seed: expected a number, got text."),
        ({"seed": ""}, "seed: expected a number, got text."),
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5."),
        ({"seed": None}, "seed: expected a whole number, got None."),
        ({"seed": 2**80}, "seed: must be a finite number from -(2^63 - 1) to 2^63 - 1."),
        ({"mix_seed": 2**63}, "mix_seed: must be a finite number"),
        ({"truncation": float("nan")}, "truncation: must be a finite number"),
        ({"label": 7}, "label: no class 7. Choose one of 0 to 1."),
        ({"truncation": 0}, "truncation: must be above 0"),
        ({"moves": {"top": [1]}}, "Unknown part 'top'"),
        ({"moves": {"all": [1] * 99}}, "there are 8 directions"),
        ({"moves": {"all": [float("inf")]}}, "moves: must be a finite number"),
        ({"moves": {"all": [1e9]}}, "moves: must lie between -20 and 20."),
        ({"mix_seed": 1, "crossover": 6}, "crossover: must be 1 to 5"),
        ({"projection": 99}, "The projection is no longer here."),
        ([1], "The request is not a JSON object."),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(open_page: Open, request_: Any, told: str) -> None:
    # Not json=: the client would refuse NaN, which a request may hold.
    answer = open_page("stylegan2").post("/api/sample", content=json.dumps(request_))
    assert answer.status_code == 400
    assert told in answer.json()["error"]


DIGITS = (
    "9" * 4300,
    "1" * 5000,
    "-" + "1" * 5000,
    "1e400",
    "-1e400",
    "NaN",
    "-Infinity",
    "-1",
    "1e30",
    "9223372036854775808",
)


@pytest.mark.parametrize("number", DIGITS)
def test_no_number_in_a_request_or_an_address_is_too_large_for_an_answer(open_page: Open, number: str) -> None:
    noise, translation = open_page("stylegan2"), open_page("stargan2")
    fields = {
        "sample": ("seed", "label", "truncation", "projection", "mix_seed", "crossover"),
        "projections": ("picture", "label", "steps"),
        "translate": ("picture", "target", "seed", "reference"),
    }
    for path, names in fields.items():
        page = translation if path == "translate" else noise
        for name in names:
            other = "" if name == "picture" or path == "sample" else ', "picture": 1'
            other += ', "mix_seed": 1' if name == "crossover" else ""
            answer = page.post(f"/api/{path}", content=f'{{"{name}": {number}{other}}}')
            assert answer.status_code == 400, (path, name)
            assert len(answer.json()["error"]) <= 1000
    for path in ("pictures", "projections"):
        assert noise.get(f"/api/{path}/{number}").status_code == 400
        assert "no longer here" in noise.get(f"/api/{path}/99").json()["error"]


def test_files_that_are_no_pictures_or_too_large_are_refused(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page("cyclegan")
    for content, told in (
        (b"", "cannot be read as a picture (empty"),
        (b"hello", "cannot be read as a picture (not-an-image"),
        (png()[:200], "cannot be read as a picture (truncated"),
    ):
        assert told in upload(page, content, "translate")["error"]
    assert "no use 'project'" in upload(page, png(), "project")["error"]
    assert "no use 'reference'" in upload(page, png(), "reference")["error"]
    monkeypatch.setattr(session, "MAX_PIXELS", 100)
    assert "The picture has 24 x 20 pixels; this page takes up to 100." in upload(page, png(), "translate")["error"]
    monkeypatch.setattr(server, "MAX_UPLOAD", 100)
    assert "The file is larger than" in upload(page, png(), "translate")["error"]
    assert "no longer here" in page.post("/api/translate", json={"picture": 99}).json()["error"]


def test_the_picture_in_use_is_kept_while_others_come_and_go(open_page: Open) -> None:
    page = open_page("stargan2")
    given = upload(page, png(), "translate")["picture"]
    for _ in range(12):
        values = {"picture": given, "target": 1, "reference": upload(page, png(), "reference")["picture"]}
        answer = page.post("/api/translate", json=values)
        assert answer.status_code == 200, answer.text


def test_translation_without_what_it_needs_is_refused(open_page: Open) -> None:
    page = open_page("stargan2")
    number = upload(page, png(), "translate")["picture"]
    for request, told in (
        ({"picture": number}, "target: stargan2 needs a target domain."),
        ({"picture": number, "target": 9}, "target: unknown domain 9. Choose one of cat (0), dog (1), owl (2)."),
        ({"picture": number, "target": 0, "seed": -1}, "seed: must be 0 or more"),
        ({"picture": number, "target": 0, "seed": 2**80}, "seed: must be a finite number"),
        ({}, "Missing setting 'picture'."),
    ):
        answer = page.post("/api/translate", json=request)
        assert answer.status_code == 400
        assert told in answer.json()["error"]
    assert "stargan2 translates pictures" in page.post("/api/sample", json={}).json()["error"]


def test_a_class_conditional_projection_needs_the_class(open_page: Open) -> None:
    page = open_page("cgan")
    number = upload(page, png(), "project")["picture"]
    for request, told in (({}, "Choose the class of the picture first."), ({"label": 5}, "label: no class 5.")):
        assert told in page.post("/api/projections", json={"picture": number, **request}).json()["error"]


def test_an_unexpected_error_is_shown_in_the_terminal_and_not_on_the_page(
    open_page: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(session.Session, "sample", fail)
    answer = open_page("dcgan").post("/api/sample", json={})
    assert answer.status_code == 500
    assert answer.json() == {"error": "The server failed on this request. The terminal has the reason."}
    assert "ZeroDivisionError: a secret" in caplog.text
