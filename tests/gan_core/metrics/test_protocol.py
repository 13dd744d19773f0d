"""A figure carries its protocol, and only figures with equal protocols are comparable."""

import dataclasses
import json

import pytest

from gan_core.config import build
from gan_core.files import sha256_json
from gan_core.metrics.protocol import Figure, Protocol

PROTOCOL = Protocol(
    metric="fid",
    extractor="e" * 64,
    features=2048,
    precision="fp32",
    resize="tf1-bilinear-299",
    real_count=5000,
    fake_count=1000,
    split="train",
    dataset_digest="d" * 64,
)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Protocol)])
def test_protocols_that_differ_are_not_comparable_and_the_field_is_named(field: str) -> None:
    value = getattr(PROTOCOL, field)
    other = dataclasses.replace(PROTOCOL, **{field: value + 1 if isinstance(value, int) else value + "x"})
    assert not PROTOCOL.comparable(other)
    assert PROTOCOL.digest != other.digest
    assert [text.split(":")[0] for text in PROTOCOL.differences(other)] == [field]


def test_equal_protocols_are_comparable() -> None:
    other = dataclasses.replace(PROTOCOL)
    assert PROTOCOL.comparable(other)
    assert PROTOCOL.digest == other.digest
    assert PROTOCOL.differences(other) == []


def test_bf16_is_not_publishable_and_the_stamp_says_so() -> None:
    assert PROTOCOL.publishable
    other = dataclasses.replace(PROTOCOL, precision="bf16")
    assert not other.publishable
    assert "NOT FOR PUBLICATION" in other.stamp


def test_the_stamp_summarises_the_protocol() -> None:
    for words in ("2048", "fp32", "tf1-bilinear-299", "1000 against 5000 real of train", "dddddddd", "eeeeeeee"):
        assert words in PROTOCOL.stamp


def test_a_protocol_without_later_fields_is_read_with_the_same_digest() -> None:
    later = ("direction", "unreadable")
    old = {name: value for name, value in dataclasses.asdict(PROTOCOL).items() if name not in later}
    assert build(Protocol, old) == PROTOCOL
    assert PROTOCOL.digest == sha256_json(old)


def test_the_stamp_has_the_direction() -> None:
    assert dataclasses.replace(PROTOCOL, direction="cats -> dogs").stamp.startswith("cats -> dogs, Inception-2015")


def test_unreadable_pictures_are_in_the_stamp_and_the_digest() -> None:
    fewer = dataclasses.replace(PROTOCOL, unreadable=2)
    assert "real of train, 2 unreadable left out, data" in fewer.stamp
    assert fewer.digest != PROTOCOL.digest
    assert not fewer.comparable(PROTOCOL)


def test_the_stamp_of_a_pixel_metric_has_no_features() -> None:
    pixels = dataclasses.replace(PROTOCOL, metric="l1", extractor="", features=0, precision="fp64", resize="")
    assert pixels.stamp == "1000 against 5000 real of train, data dddddddd"
    assert pixels.publishable
    assert "classifier eeeeeeee" in dataclasses.replace(pixels, extractor="e" * 64).stamp


def test_a_figure_round_trips_through_json() -> None:
    figure = Figure(name="fid", value=12.5, protocol=PROTOCOL, generator_digest="g" * 64, seed=3)
    plain = json.loads(json.dumps(figure.as_dict()))
    assert plain["value"] == 12.5
    assert plain["generator_digest"] == "g" * 64
    assert plain["protocol_digest"] == PROTOCOL.digest
    assert build(Protocol, plain["protocol"]) == PROTOCOL
    assert (plain["low"], plain["high"], plain["baseline"], plain["higher_is_better"]) == (None, None, None, False)
