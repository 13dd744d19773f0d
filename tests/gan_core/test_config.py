"""Every mistake in a configuration is an error that names the setting and the remedy."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from gan_core.config import as_dict, build, check
from gan_core.errors import SettingsError
from gan_core.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1

    def __post_init__(self) -> None:
        check(self.rate > 0, f"rate: must be above 0, got {self.rate}.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    flag: bool = False
    name: str = "x"
    kind: Literal["crop", "pad"] = "crop"
    size: tuple[int, int] = (32, 32)
    many: tuple[float, ...] = ()
    workers: int | tuple[int, int] = 1
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    table: dict[str, float] = field(default_factory=dict)
    anything: Any = None


def make(**values: Any) -> Outer:
    return build(Outer, {"count": 1, **values}, where="top")


def test_values_are_converted_and_defaults_fill_the_rest() -> None:
    made = make(size=[28, 24], many=[1, 2.5], workers=[1, 2], limit=3, inner={"rate": 1}, table={"a": 1}, anything=[{}])
    assert made == Outer(
        count=1, size=(28, 24), many=(1.0, 2.5), workers=(1, 2), limit=3.0, inner=Inner(rate=1.0), table={"a": 1.0},
        anything=[{}],
    )  # fmt: skip
    assert isinstance(made.limit, float)
    assert isinstance(made.inner.rate, float)


def test_an_unknown_setting_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting 'top\.cuont'\. Did you mean 'count'\?"):
        make(cuont=3)


def test_an_unknown_nested_setting_gives_its_whole_path() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting 'top\.inner\.rat'\. Did you mean 'rate'\?"):
        make(inner={"rat": 3})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"Missing setting 'top\.count'"):
        build(Outer, {}, where="top")


def test_a_whole_number_may_be_written_with_an_exponent() -> None:
    """YAML 1.1 reads both as text."""
    assert (build(Outer, {"count": "1e4"}).count, build(Outer, {"count": "2.5E3"}).count) == (10_000, 2_500)


@pytest.mark.parametrize("text", ["2e-4", "0.0002"])
def test_a_number_that_yaml_reads_as_text_is_a_number(text: str) -> None:
    assert make(limit=text).limit == 2e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, r"top\.count: expected a whole number, got True"),
        ({"count": 1.0}, r"top\.count: expected a whole number, got 1\.0"),
        ({"count": "1"}, r"top\.count: expected a whole number, got '1'"),
        ({"flag": 1}, r"top\.flag: expected true or false, got 1"),
        ({"name": 1}, r"top\.name: expected text, got 1"),
        ({"limit": True}, r"top\.limit: True is not a finite number or null"),
        ({"limit": "fast"}, r"top\.limit: 'fast' is not a finite number or null"),
        ({"limit": float("inf")}, r"top\.limit: inf is not a finite number or null"),
        ({"many": [float("nan")]}, r"top\.many\[0\]: expected a finite number, got nan"),
        ({"many": [10**400]}, r"top\.many\[0\]: expected a finite number"),
        ({"table": {"a": "-inf"}}, r"top\.table\.a: expected a finite number, got '-inf'"),
        ({"kind": "padd"}, r"top\.kind: 'padd' is not one of the choices\. Did you mean 'pad'\?"),
        ({"size": [1, 2, 3]}, r"top\.size: expected 2 values, got 3"),
        ({"size": [1, "a"]}, r"top\.size\[1\]: expected a whole number"),
        ({"size": 32}, r"top\.size: expected a list, got 32"),
        ({"many": "12"}, r"top\.many: expected a list, got '12'"),
        ({"workers": [1]}, r"\[1\] is not a whole number or a list of 2 \(a whole number, a whole number\)\."),
        ({"inner": 3}, r"top\.inner: expected a mapping of settings, got 3"),
        ({"table": [1]}, r"top\.table: expected a mapping, got \[1\]"),
        ({"table": {"a": "b"}}, r"top\.table\.a: expected a finite number, got 'b'"),
        ({"inner": {"rate": -1}}, r"top\.inner\.rate: must be above 0, got -1\.0"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(**values)


def test_as_dict_and_build_are_inverse() -> None:
    made = make(size=[28, 24], inner={"rate": 0.5}, table={"a": 1})
    plain = as_dict(made)
    assert plain["size"] == [28, 24]
    assert build(Outer, plain) == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "must be at least 1, got 0"),
        ({"generator_lr": 0.0}, r"must be above 0, got 0\.0"),
        ({"beta1": 1.0}, r"must lie in \[0, 1\), got 1\.0"),
        ({"batch": 10, "accumulate": 3}, r"10 is not divisible by accumulate \(3\)"),
        ({"batch": 4, "accumulate": 4}, "micro-batch needs at least 2 images"),
        ({"max_rollbacks": -1}, "must be at least 0, got -1"),
        ({"collapse_patience": 0}, "must be at least 1, got 0"),
        ({"collapse_diversity": -0.1}, r"must lie in \[0, 1\), got -0.1"),
        ({"collapse_diversity": 1.5}, r"must lie in \[0, 1\), got 1.5"),
        ({"seed": -1}, "must be at least 0, got -1"),
    ],
)
def test_a_training_setting_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=r"^train\.\w+: .*" + message):
        build(TrainConfig, values, where="train")
