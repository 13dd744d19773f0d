"""Read params.yaml: errors name the file and line. Find the tracking URI."""

from pathlib import Path

import pytest

from gan_core.errors import SettingsError
from pipelines.settings.params import read_params
from pipelines.settings.tracking_uri import check_uri, project_tracking_uri, tracking_uri


@pytest.fixture(autouse=True)
def _no_tracking_uri_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GANTRY_TRACKING_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", r"must consist of sections .*, got \['a', 'b'\]"),
        (b"train\n", r"must consist of sections .*, got 'train'"),
        (b"3\n", r"must consist of sections .*, got 3"),
        (b"train: {steps: 3\n", r"is not YAML: "),
        ("data: {name: m\u00f6wen}\n".encode("latin-1"), r"is not UTF-8 .* Save it as UTF-8"),
        (b"train: {}\ndata: {}\ntrain: {}\n", r"'train' appears twice, in line 1 and in line 3. Keep one"),
        (b"train:\n  steps: 1\n  steps: 2\n", r"'steps' appears twice, in line 2 and in line 3"),
    ],
)
def test_a_file_that_is_not_a_mapping_of_sections_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
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
            r"line 1: the tag !!python/object/apply:os.system is not allowed",
        ),
        ("model:\n  family: !mine dcgan\n", r"line 2: the tag !mine is not allowed. Remove it"),
        ("data: {name: !!binary aGFsbG8=}\n", r"line 1: the tag !!binary is not allowed"),
        ("tune: !!set {a, b}\n", r"line 1: the tag !!set is not allowed"),
        ("data:\n  name: 2024-06-01\n", r"line 2: YAML reads 2024-06-01 as a date, .* Put it in quotes"),
        ("data: {name: 2024-13-45}\n", r"line 1: YAML reads 2024-13-45 as a date"),
        ("train: {seed: 010}\n", r"line 1: YAML 1.1 and YAML 1.2 read 010 as different numbers"),
        ("train: {seed: 1:30}\n", r"line 1: YAML 1.1 and YAML 1.2 read 1:30 as different numbers"),
        (f"train: {{seed: {'9' * 10_000}}}\n", r"line 1: 9{20}\.\.\. \(10,000 characters\) is not a valid number"),
        ("[" * 50_000, r"nested too deeply"),
        ("{a: " * 5_000, r"nested too deeply"),
        ("a: &a [*a]\n", r"line 1: this anchor contains an alias of itself"),
        ("a: \0\n", r"is not YAML: "),
        ("train:\n\tsteps: 1\n", r"is not YAML: "),
        ("x: '" + "a" * (1 << 20) + "'\n", r"the limit is 1,048,576"),
    ],
    ids=lambda value: value[:24],
)
def test_a_value_that_cannot_be_a_setting_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as error:
        read_params(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 600


def test_nested_aliases_are_counted_before_they_are_expanded(tmp_path: Path) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(SettingsError, match=r"line \d: with its aliases expanded, this has more than 100,000 values"):
        read_params(path)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {steps: 1, seed: 0, rate: 0.5, other: 1_000}\n", encoding="utf-8-sig")
    assert read_params(path) == {"train": {"steps": 1, "seed": 0, "rate": 0.5, "other": 1000}}


def test_anchors_and_merge_keys_are_not_repeated_keys(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: {<<: *one, a: 4}\n")
    assert read_params(path) == {"one": {"a": 1, "b": 2}, "two": {"a": 1, "b": 3}, "three": {"a": 4, "b": 2}}
    path.write_text("")
    assert read_params(path) == {}


def test_environment_variables_take_precedence_with_gantrys_first(
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
        SettingsError, match=r"^environment variable MLFLOW_TRACKING_URI: './mlruns' is not a tracking URI"
    ):
        tracking_uri("sqlite:///a.db", tmp_path)


@pytest.mark.parametrize("uri", ["databricks://\n", "http://\n", "http://server:5000\n", "sqlite:///a.db\n", "uc:a\nb"])
def test_a_tracking_uri_has_one_line(uri: str) -> None:
    check_uri(uri.replace("\n", "x"), "it")
    with pytest.raises(SettingsError, match="is not a tracking URI"):
        check_uri(uri, "it")


def test_a_bare_scheme_that_ends_in_a_newline_is_refused() -> None:
    check_uri("databricks", "it")
    with pytest.raises(SettingsError, match="is not a tracking URI"):
        check_uri("databricks\n", "it")


def test_a_project_may_have_no_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    "uri",
    [
        "http://me:secret@host",
        "https://token-secret@host/api",
        "postgresql://me:secret@db/m",
        "postgresql://db/m?password=secret",
    ],
)
def test_a_password_in_params_yaml_is_refused_because_dvc_copies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    (tmp_path / "params.yaml").write_text(f"track:\n  uri: {uri}\n")
    for named in (None, "http://elsewhere"):
        if named:
            monkeypatch.setenv("GANTRY_TRACKING_URI", named)
        with pytest.raises(
            SettingsError, match=r"track.uri in params.yaml contains a password.*GANTRY_TRACKING_URI"
        ) as error:
            project_tracking_uri(tmp_path)
        assert "secret" not in str(error.value)


def test_a_user_of_a_database_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("track:\n  uri: postgresql://me@db/m\n")
    assert project_tracking_uri(tmp_path) == "postgresql://me@db/m"
