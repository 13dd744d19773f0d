"""A version that translates takes pictures as files, base64 or pixels, returns PNGs, and refuses bad input with HTTP 400."""

import base64
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from gan_core.images.pictures import prepare
from gan_core.inference.generator import load_generator
from gan_core.metrics.protocol import Figure
from pipelines.registry.model_folder import write_model
from tests.pipelines.data.samples import picture, png
from tests.pipelines.registry.conftest import PROTOCOL
from tests.pipelines.translators import export

FILE = png(1, height=20, width=16)
PIXELS = np.asarray(picture(1, 20, 16))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write the MLflow folder of a variant's generator, once per variant."""
    written: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in written:
            place = tmp_path_factory.mktemp(variant)
            figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64, baseline=31.5)
            kid = Figure(name="kid", value=0.0123, protocol=PROTOCOL, generator_digest="f" * 64, low=0.01, high=0.02)
            write_model(
                place / "model",
                generator_dir=export(place / "generator", variant),
                name="pets",
                figure=figure.as_dict(),
                figures=[figure.as_dict(), kid.as_dict()],
                tags={},
                card={},
                notes={},
                example=FILE,
                model_id="m-1",
                run_id=None,
            )
            written[variant] = place / "model"
        return written[variant]

    return get


@pytest.fixture
def load(model_of, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Load a variant as a user does, with pickles disabled."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return lambda variant: mlflow.pyfunc.load_model(str(model_of(variant)))


def pictures(answer: pd.DataFrame) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(content))) for content in answer["png"]]


def test_a_file_its_base64_and_its_pixels_give_the_same_result(load, model_of) -> None:
    model, target = load("stargan"), {"target": ["owl"]}
    forms = [{"image": [FILE]}, {"image": [base64.b64encode(FILE).decode()]}, {"pixels": [PIXELS.tolist()]}]
    made = [pictures(model.predict(pd.DataFrame({**form, **target})))[0] for form in forms]
    generator = load_generator(model_of("stargan").parent / "generator")
    expected = generator.translate(torch.from_numpy(PIXELS.transpose(2, 0, 1)[None].copy()), 2)[0].permute(1, 2, 0)
    for one in made:
        np.testing.assert_array_equal(one, expected)


def test_equal_rows_give_equal_pictures_in_any_request(load) -> None:
    """Even if the generator has random dropout. Each result names its row in the request."""
    model = load("pix2pix")
    answer = model.predict(pd.DataFrame({"image": [png(2), FILE, FILE, FILE], "seed": [1, 1, 1, 2]}))
    assert list(answer.columns) == ["png", "row"]
    assert list(answer["row"]) == [0, 1, 2, 3]
    made = pictures(answer)
    np.testing.assert_array_equal(made[1], made[2])
    assert (made[1] != made[3]).any()
    alone = pictures(model.predict(pd.DataFrame({"image": [FILE], "seed": [1]})))
    np.testing.assert_array_equal(alone[0], made[1])


def test_the_style_is_taken_from_a_reference_as_file_or_base64(load, model_of) -> None:
    """Without a reference, the seed determines the style."""
    model, rows = load("stargan2"), {"image": [FILE, FILE, FILE], "target": ["owl"] * 3}
    references = [png(7, height=30, width=40), png(8, height=16, width=16)]
    given = model.predict(pd.DataFrame({**rows, "reference": [*references, None]}))
    answer = pictures(given)
    style = prepare(references[0], size=(16, 16), channels=3, mode="crop")
    generator = load_generator(model_of("stargan2").parent / "generator")
    source, like = (torch.from_numpy(pixels[None].copy()) for pixels in (PIXELS.transpose(2, 0, 1), style))
    np.testing.assert_array_equal(answer[0], generator.translate_like(source, like, 2)[0].permute(1, 2, 0))
    np.testing.assert_array_equal(answer[2], generator.translate(source, 2)[0].permute(1, 2, 0))
    assert (answer[0] != answer[1]).any()
    said = [json.loads(Image.open(io.BytesIO(content)).text["gantry"]) for content in given["png"]]
    assert [one.get("seed") for one in said] == [None, None, 0]
    assert [one.get("like") for one in said] == [*(hashlib.sha256(one).hexdigest() for one in references), None]
    text = [base64.b64encode(reference).decode() for reference in references]
    again = pictures(model.predict(pd.DataFrame({name: of[:2] for name, of in rows.items()} | {"reference": text})))
    np.testing.assert_array_equal(again, answer[:2])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reference": png(7)[:60], "target": "owl"}, "row 0: reference: truncated"),
        ({"reference": "no base64!", "target": "owl"}, "row 0: reference is text but not valid base64"),
        ({"reference": png(7)}, "row 0: The target is missing"),
    ],
)
def test_an_invalid_reference_is_refused_with_the_row(load, row: dict, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        load("stargan2").predict(pd.DataFrame([{"image": FILE, **row}]))
    assert raised.value.get_http_status_code() == 400


def test_a_generator_without_styles_refuses_a_reference(load) -> None:
    """MLflow drops columns that are not in the signature, so this calls the model directly."""
    model = load("stargan")
    with pytest.raises(MlflowException, match="row 0: stargan cannot take the style of a reference picture"):
        model.unwrap_python_model().predict(
            None, pd.DataFrame({"image": [FILE], "target": ["owl"], "reference": [FILE]})
        )


def test_transparency_is_preserved(load) -> None:
    clear = picture(4, 16, 16, mode="RGBA")
    content = io.BytesIO()
    clear.save(content, "PNG")
    (made,) = load("cyclegan").predict(pd.DataFrame({"image": [content.getvalue()]}))["png"]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(made)))[..., 3], np.asarray(clear)[..., 3])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            {"image": [FILE, FILE], "target": ["owl", "cow"]},
            r"row 1: target cow: unknown domain\. Choose one of cat \(0\), dog \(1\), owl \(2\)",
        ),
        ({"image": [FILE]}, "row 0: The target is missing"),
        ({"image": [FILE[:60]], "target": ["owl"]}, "row 0: truncated"),
        ({"image": ["no base64!"], "target": ["owl"]}, "row 0: image is text but not valid base64"),
        ({"target": ["owl"]}, "row 0: give one picture"),
        ({"pixels": [[[[1, 2]]]], "target": ["owl"]}, r"row 0: pixels have the shape \(1, 1, 2\)"),
        ({"pixels": [[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]], "target": ["owl"]}, "row 0: .* of equal length"),
        ({"pixels": [[[[1, 2, 256]]]], "target": ["owl"]}, "row 0: pixels must be whole numbers from 0 to 255"),
        ({"image": [FILE], "target": ["owl"], "seed": [-1]}, "row 0: seed: must be 0 or more"),
    ],
)
def test_an_invalid_request_is_refused_with_the_row(load, rows: dict, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        load("stargan").predict(pd.DataFrame(rows))
    assert raised.value.get_http_status_code() == 400


def test_http_requests_and_responses_hold_pictures_as_base64(load) -> None:
    """With MLflow's own server application, without a socket."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    text = base64.b64encode(FILE).decode()
    with TestClient(scoring_server.init(load("stargan"))) as client:
        rows = [{"image": text, "target": target} for target in ("owl", "2")]
        answer = client.post("/invocations", json={"dataframe_records": rows})
        assert answer.status_code == 200, answer.text
        made = [base64.b64decode(row["png"]) for row in answer.json()["predictions"]]
        assert made[0] == made[1]
        nested = {"columns": ["pixels", "target"], "data": [[PIXELS.tolist(), "owl"]]}
        answer = client.post("/invocations", json={"dataframe_split": nested})
        assert base64.b64decode(answer.json()["predictions"][0]["png"]) == made[0]
        for row, words in (
            ({"image": text, "target": "cow"}, "row 0: target cow: unknown domain"),
            ({"image": "####", "target": "owl"}, "row 0: empty"),
            ({"target": "owl"}, "row 0: give one picture"),
            ({"img": text}, "no row with a known column; add the column image or pixels"),
        ):
            answer = client.post("/invocations", json={"dataframe_records": [row]})
            assert answer.status_code == 400, answer.text
            assert words in answer.text


def test_http_requests_hold_a_reference_as_base64(load) -> None:
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    image, *references = (base64.b64encode(content).decode() for content in (FILE, png(7), png(8)))
    with TestClient(scoring_server.init(load("stargan2"))) as client:
        rows = [{"image": image, "target": "owl", "reference": reference} for reference in references]
        answer = client.post("/invocations", json={"dataframe_records": rows})
        assert answer.status_code == 200, answer.text
        first, second = (row["png"] for row in answer.json()["predictions"])
        assert first != second
        answer = client.post("/invocations", json={"dataframe_records": [{**rows[0], "reference": image[:40]}]})
        assert answer.status_code == 400
        assert "row 0: reference: " in answer.text


def test_the_model_answers_its_input_example(load, model_of) -> None:
    described = Model.load(str(model_of("stargan")))
    assert [(column.name, column.required) for column in described.signature.inputs] == [
        ("image", False),
        ("pixels", False),
        ("target", False),
        ("seed", False),
    ]
    styled = Model.load(str(model_of("stargan2"))).signature.inputs
    assert [(column.name, column.required) for column in styled][4:] == [("reference", False)]
    example = described.load_input_example(str(model_of("stargan")))
    (made,) = pictures(load("stargan").predict(example))
    assert made.shape == PIXELS.shape


def test_the_card_shows_every_figure_with_its_baseline_and_the_usage(model_of) -> None:
    card = (model_of("stargan") / "README.md").read_text()
    assert "source, to cat, to dog, to owl" in card
    assert "| fid |  | 20.00 |  | 31.50 | lower |" in card
    assert "| kid |  | 0.0123 | 0.0100 to 0.0200 |  | lower |" in card
    assert '"image": [picture], "target": ["dog"]' in card
    assert "gantry translate pets@champion IN OUT --target dog" in card
    assert "All rows of a request must have the same columns" in card
    assert "reference" not in card.split("## Use")[1]
    styled = (model_of("stargan2") / "README.md").read_text()
    assert "To take the style from a picture of the target domain, add it as `reference`" in styled
    assert "gantry translate pets@champion IN OUT --target dog [--like PICTURE]" in styled
    assert "target" not in (model_of("pix2pix") / "README.md").read_text().split("## Use")[1]


def raw(model: Any) -> Any:
    """The model itself, without MLflow's type checks."""
    return model.unwrap_python_model()


BOMB = io.BytesIO()
Image.new("1", (4200, 4200)).save(BOMB, "PNG")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": BOMB.getvalue()}, "row 0: the picture has 17640000 pixels; the limit is 16777216"),
        ({"image": base64.b64encode(BOMB.getvalue()).decode()}, "row 0: the picture has 17640000 pixels"),
        ({"pixels": [[[0]] * 5000] * 5000}, "row 0: the picture has 25000000 pixels"),
        ({"pixels": [[]]}, "row 0: pixels have the shape"),
        ({"pixels": 5}, "row 0: pixels must be nested lists"),
        ({"image": FILE, "target": "x" * 10**6}, "row 0: target x{900,990}$"),
        ({"image": FILE, "target": "owl", "seed": float("inf")}, "row 0: seed is 'inf'; it must be a number"),
        ({"image": FILE, "target": "owl", "seed": "many"}, "row 0: seed is 'many'; it must be a number"),
        ({"image": ["a", "b"]}, "row 0: image is list; it must be the bytes of a picture file"),
    ],
    ids=["bomb", "base64 bomb", "pixels", "no pixels", "a number", "long target", "inf", "text", "list"],
)
def test_oversized_or_malformed_values_are_refused_before_decoding(load, row: dict, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        raw(load("stargan")).predict(None, pd.DataFrame([row]))
    assert raised.value.get_http_status_code() == 400


def test_the_total_pixels_of_a_request_are_limited(load, monkeypatch) -> None:
    model = raw(load("stargan"))
    monkeypatch.setitem(
        type(model)._answered.__globals__, "MAX_PIXELS_PER_REQUEST", 2 * PIXELS.shape[0] * PIXELS.shape[1]
    )
    rows = pd.DataFrame({"image": [FILE] * 3, "target": ["owl"] * 3})
    assert len(model.predict(None, rows[:2])) == 2
    with pytest.raises(MlflowException, match="row 2: the pictures up to this row have more than 640 pixels"):
        model.predict(None, rows)


def test_a_failure_reveals_nothing_of_the_server_to_the_client(load, monkeypatch) -> None:
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    model = load("stargan")

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory at /a/place/of/this/machine")

    monkeypatch.setattr(raw(model).generator, "translate", broken)
    with TestClient(scoring_server.init(model)) as client:
        row = {"image": base64.b64encode(FILE).decode(), "target": "owl"}
        answer = client.post("/invocations", json={"dataframe_records": [row]})
    assert answer.status_code == 500
    assert "The server's log has the cause" in answer.text
    for secret in ("machine", "Traceback", ".py", "stack_trace"):
        assert secret not in answer.text


def test_requests_are_answered_one_at_a_time_and_time_out(load, monkeypatch) -> None:
    model = raw(load("stargan"))
    monkeypatch.setitem(type(model)._answered.__globals__, "QUEUE_TIMEOUT", 0.01)
    rows = pd.DataFrame({"image": [FILE], "target": ["owl"]})
    with model._turn, pytest.raises(MlflowException, match="The server is busy") as raised:
        model.predict(None, rows)
    assert raised.value.get_http_status_code() == 503
    assert len(model.predict(None, rows)) == 1
