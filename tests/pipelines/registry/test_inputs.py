"""Damaged inputs of the register stage are refused with file, line and remedy."""

import copy
import json

import pytest

from gan_core.errors import StageError
from gan_core.files import write_json
from gan_core.metrics.protocol import Figure, Protocol
from pipelines.registry.inputs import check_curves, read_measured

FIGURE = Figure(
    name="fid",
    value=12.5,
    protocol=Protocol(
        metric="fid",
        features=2048,
        extractor="e" * 64,
        precision="fp32",
        resize="bilinear",
        dataset_digest="d" * 64,
        split="train",
        fake_count=100,
        real_count=100,
    ),
    generator_digest="g" * 64,
).as_dict()
CURVES = "step,loss_generator,health_diversity\n20,1.5,\n40,nan,0.5\n"


def test_valid_inputs_are_accepted(tmp_path):
    write_json(tmp_path / "metrics.json", {"fid": FIGURE, "figures": [FIGURE], "values": {"fid": 12.5}})
    assert read_measured(tmp_path / "metrics.json")["fid"]["value"] == 12.5
    (tmp_path / "curves.csv").write_text(CURVES)
    (tmp_path / "fid.csv").write_text("step,fid\n")
    check_curves(tmp_path / "curves.csv", tmp_path / "fid.csv", tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"metrics.json is damaged.*line 1"),
        ('{"fid": {\n"value": 1,', r"metrics.json is damaged.*line 2"),
        ("[]", r"metrics.json has no figure to register"),
        ('{"fid": 3}', r"metrics.json has no figure to register"),
        ({"fid": {"value": "low"}}, r"metrics.json: .*fid"),
        ({"fid": {"protocol": {"split": 3}}}, r"metrics.json: .*fid.protocol"),
        ({"figures": 3}, r"metrics.json: figures is not a list"),
        ({"figures": [3]}, r"metrics.json: figures\[0\] is not a figure"),
        ({"figures": [{"name": "kid"}]}, r"metrics.json: Missing setting 'figures\[0\]"),
    ],
    ids=str,
)
def test_damaged_figures_are_refused(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    if isinstance(content, dict):
        whole = {"fid": copy.deepcopy(FIGURE), "figures": []}
        fid = content.get("fid", {})
        whole["fid"].update({name: value for name, value in fid.items() if name != "protocol"})
        whole["fid"]["protocol"].update(fid.get("protocol", {}))
        content = json.dumps({**whole, **{name: value for name, value in content.items() if name != "fid"}})
    path.write_text(content)
    with pytest.raises(StageError, match=f"{message}.*evaluate again: gantry run"):
        read_measured(path)


def test_missing_figures_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"metrics.json is missing. Evaluate first: gantry run"):
        read_measured(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: the header has no column 'step'"),
        (b"junk\n", r"line 1: the header has no column 'step'"),
        (b"step,fid\n20,1.5\n40\n", r"line 3: 1 values, but the header has 2"),
        (b"step,fid\n20,1.5\n40,high\n", r"line 3: fid is 'high', which is not a number"),
        (b"step,fid\n40,1.5\n20,1.5\n", r"line 3: step 20 comes after step 40"),
        (b"step,fid\n,1.5\n", r"line 2: step is '', which is not a number"),
        (b"step,fid\n20,1\n\xff\xfe,2\n", r"line 3: the text is not UTF-8"),
        (b'step,fid\n20,"1\n', r"line 2: the text is not CSV"),
        (b"step,fid\n20,1\x00\n", r"line 2: "),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("name", ["curves.csv", "fid.csv"])
def test_damaged_training_curves_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=rf"{name}, {message}.*nothing is registered.*gantry run"):
        check_curves(tmp_path / name)
