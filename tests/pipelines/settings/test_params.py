"""Reading params.yaml: what is no mapping of sections is an error that says where; which tracking store is meant."""

from pathlib import Path

import pytest

from gan_core.errors import SettingsError
from pipelines.settings.params import read_params
from pipelines.settings.tracking_uri import check_uri, project_tracking_uri, tracking_uri


@pytest.fixture(autouse=True)
def _no_store_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GANTRY_TRACKING_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", r"expected sections .*, got \['a', 'b'\]"),
        (b"train\n", r"expected sections .*, got 'train'"),
        (b"3\n", r"expected sections .*, got 3"),
        (b"train: {steps: 3\n", r"is not YAML: "),
        ("data: {name: m\u00f6wen}\n".encode("latin-1"), r"is not UTF-8 .* Save it as UTF-8"),
        (b"train: {}\ndata: {}\ntrain: {}\n", r"'train' appears twice, in line 1 and in line 3. Keep one"),
        (b"train:\n  steps: 1\n  steps: 2\n", r"'steps' appears twice, in line 2 and in line 3"),
    ],
)
def test_what_is_no_mapping_of_sections_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as error:
        read_params(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "model: !!python/object/apply:os.system [echo]\n",
            r"line 1: the tag !!python/object/apply:os.system is no kind",
        ),
        ("model:\n  family: !mine dcgan\n", r"line 2: the tag !mine is no kind of setting. Remove it"),
        ("data: {name: !!binary aGFsbG8=}\n", r"line 1: the tag !!binary is no kind"),
        ("tune: !!set {a, b}\n", r"line 1: the tag !!set is no kind"),
        ("data:\n  name: 2024-06-01\n", r"line 2: 2024-06-01 is a date in YAML, .* Put it in quotes"),
        ("data: {name: 2024-13-45}\n", r"line 1: 2024-13-45 is a date in YAML"),
        ("train: {seed: 010}\n", r"line 1: YAML 1.1 and YAML 1.2 read 010 as different numbers"),
        ("train: {seed: 1:30}\n", r"line 1: YAML 1.1 and YAML 1.2 read 1:30 as different numbers"),
        (f"train: {{seed: {'9' * 10_000}}}\n", r"line 1: 9{20}\.\.\. \(10,000 characters\) is no number"),
        ("[" * 50_000, r"nested too deeply"),
        ("{a: " * 5_000, r"nested too deeply"),
        ("a: &a [*a]\n", r"line 1: this anchor contains an alias of itself"),
        ("a: \0\n", r"is not YAML: "),
        ("train:\n\tsteps: 1\n", r"is not YAML: "),
        ("x: '" + "a" * (1 << 20) + "'\n", r"1,048,576 are the most"),
    ],
    ids=lambda value: value[:24],
)
def test_what_no_setting_can_be_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as error:
        read_params(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 600


def test_aliases_of_aliases_are_counted_before_they_are_written_out(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(
        SettingsError, match=r"line \d: with its aliases written out, this holds more than 100,000 values"
    ):
        read_params(path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {steps: 1, seed: 0, rate: 0.5, other: 1_000}\n", encoding="utf-8-sig")
    assert read_params(path) == {"train": {"steps": 1, "seed": 0, "rate": 0.5, "other": 1000}}


def test_anchors_and_merges_are_no_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: {<<: *one, a: 4}\n")
    assert read_params(path) == {"one": {"a": 1, "b": 2}, "two": {"a": 1, "b": 3}, "three": {"a": 4, "b": 2}}
    path.write_text("")
    assert read_params(path) == {}


def test_the_environment_names_the_store_gantrys_variable_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path}/a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///b.db")
    assert tracking_uri("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path}/b.db"
    monkeypatch.setenv("GANTRY_TRACKING_URI", "http://server:5000")
    assert tracking_uri("sqlite:///a.db", tmp_path) == "http://server:5000"
    monkeypatch.setenv("GANTRY_TRACKING_URI", "")
    assert tracking_uri("sqlite:///a.db", tmp_path) == f"sqlite:///{tmp_path}/b.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(
        SettingsError, match=r"^MLFLOW_TRACKING_URI in the environment: './mlruns' names no tracking store"
    ):
        tracking_uri("sqlite:///a.db", tmp_path)


@pytest.mark.parametrize("uri", ["databricks://\n", "http://\n", "http://server:5000\n", "sqlite:///a.db\n", "uc:a\nb"])
def test_a_store_is_named_in_one_line(uri: str) -> None:
    check_uri(uri.replace("\n", "x"), "it")
    with pytest.raises(SettingsError, match="names no tracking store"):
        check_uri(uri, "it")


def test_a_name_alone_that_ends_in_a_newline_is_no_store() -> None:
    check_uri("databricks", "it")
    with pytest.raises(SettingsError, match="names no tracking store"):
        check_uri("databricks\n", "it")


def test_a_project_may_name_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_tracking_uri(tmp_path) is None
    (tmp_path / "params.yaml").write_text("train: {steps: 1}\n")
    assert project_tracking_uri(tmp_path) is None
    (tmp_path / "params.yaml").write_text("track: {uri: 'sqlite:///var/mlflow.db'}\n")
    assert project_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/var/mlflow.db"
    monkeypatch.setenv("GANTRY_TRACKING_URI", f"sqlite:///{tmp_path}/a\nb/mlflow.db")
    assert project_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/a\nb/mlflow.db"
    monkeypatch.delenv("GANTRY_TRACKING_URI")
    assert project_tracking_uri(tmp_path, base=tmp_path / "main") == f"sqlite:///{tmp_path}/main/var/mlflow.db"


@pytest.mark.parametrize(
    "uri", ["http://me:secret@host", "postgresql://me:secret@db/m", "postgresql://db/m?password=secret"]
)
def test_a_password_in_params_yaml_is_refused_because_dvc_copies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    (tmp_path / "params.yaml").write_text(f"track:\n  uri: {uri}\n")
    for named in (None, "http://elsewhere"):
        if named:
            monkeypatch.setenv("GANTRY_TRACKING_URI", named)
        with pytest.raises(
            SettingsError, match=r"track.uri in params.yaml holds a password.*GANTRY_TRACKING_URI"
        ) as error:
            project_tracking_uri(tmp_path)
        assert "secret" not in str(error.value)
