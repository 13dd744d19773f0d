"""Reading and writing prefect.yaml."""

import errno

import pytest

from gan_core.errors import SettingsError
from pipelines.flow.prefect_yaml import (
    ENTRYPOINT,
    Options,
    changed_entry,
    concurrency,
    new_entry,
    own_deployments,
    read_deployments,
    write_entry,
)
from pipelines.runtime.checkout import Checkout


def test_entries_and_comments_of_others_are_kept(tmp_path):
    checkout, path = Checkout.at(tmp_path), tmp_path / "prefect.yaml"
    text = "# mine\nname: toy\ndeployments:\n- name: other  # of another flow\n  entrypoint: flows.py:other\n"
    path.write_text(text)
    entry = new_entry("nightly", "toy", Options())
    assert write_entry(checkout, "toy", "nightly", entry)
    assert not write_entry(checkout, "toy", "nightly", entry), "a second time, nothing changes"
    assert path.read_text().startswith(text)
    assert list(read_deployments(checkout)[1]) == ["other", "nightly"]
    assert list(own_deployments(checkout)[1]) == ["nightly"]
    assert write_entry(checkout, "toy", "nightly", None)
    assert list(read_deployments(checkout)[1]) == ["other"]


def test_texts_that_yaml_reads_as_something_else_are_in_quotes(tmp_path):
    checkout = Checkout.at(tmp_path)
    entry = new_entry("nightly", "toy", Options()) | {"description": "no", "tags": ["on", "gantry"]}
    entry["parameters"] = {"revision": "1234567", "stages": [], "overrides": {"train.precision": "off"}}
    write_entry(checkout, "toy", "nightly", entry)
    assert read_deployments(checkout)[1]["nightly"] == entry
    assert not write_entry(checkout, "toy", "nightly", entry)


def test_an_option_changes_only_its_own_field():
    entry = changed_entry(new_entry("nightly", "toy", Options()), Options(cron="0 3 * * *"))
    assert entry["schedules"] == [{"cron": "0 3 * * *", "timezone": "UTC", "active": True}]
    entry["schedules"][0]["active"] = False
    entry["description"] = "by hand"
    changed = changed_entry(entry, Options(timezone="Europe/Berlin", limit=2))
    assert changed["schedules"] == [{"cron": "0 3 * * *", "timezone": "Europe/Berlin", "active": False}]
    assert changed["concurrency_limit"] == {"limit": 2, "collision_strategy": "ENQUEUE"}
    assert changed["description"] == "by hand"
    assert changed_entry(changed, Options(cron=""))["schedules"] == []
    with pytest.raises(SettingsError, match="--timezone needs a schedule"):
        changed_entry({}, Options(timezone="Europe/Berlin"))
    with pytest.raises(SettingsError, match="has 2 schedules"):
        changed_entry({"schedules": [{}, {}]}, Options(cron="0 3 * * *"))


@pytest.mark.parametrize(
    ("given", "limit", "strategy"), [(2, 2, "ENQUEUE"), ({"limit": 3}, 3, "ENQUEUE"), (None, 1, "ENQUEUE")]
)
def test_a_limit_written_by_hand_is_read_as_prefect_does_and_stays_as_it_is(given, limit, strategy):
    entry = {**new_entry("nightly", "toy", Options()), "concurrency_limit": given}
    assert concurrency(entry) == {"limit": limit, "collision_strategy": strategy}
    assert changed_entry(entry, Options())["concurrency_limit"] == given
    wanted = {"limit": limit, "collision_strategy": "CANCEL_NEW"}
    assert changed_entry(entry, Options(collision="CANCEL_NEW"))["concurrency_limit"] == wanted
    with pytest.raises(SettingsError, match="concurrency_limit must be a number"):
        concurrency({"name": "nightly", "concurrency_limit": "two"})


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    checkout, path = Checkout.at(tmp_path), tmp_path / "prefect.yaml"
    text = "# mine\nname: toy\ndeployments:\n- name: other\n  entrypoint: flows.py:other\n"
    path.write_text(text)

    def full(self, data, stream):
        stream.write("# mi")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ruamel.yaml.YAML.dump", full)
    with pytest.raises(OSError, match="No space"):
        write_entry(checkout, "toy", "nightly", new_entry("nightly", "toy", Options()))
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: [", "not valid YAML"),
        ("deployments: {}\n- a", "not valid YAML"),
        ("deployments: 3\n", "must be a list of mappings, each with a name"),
        ("deployments: [{entrypoint: a}]\n", "must be a list of mappings, each with a name"),
        ("deployments: [{name: a}, {name: a}]\n", "'a' appears twice"),
        (
            f"deployments: [{{name: a, entrypoint: {ENTRYPOINT}, work_pool: p}}]\n",
            "work_pool of .*'a' must be a mapping",
        ),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match=rf"prefect.yaml: .*{message}.*git checkout prefect.yaml"):
        read_deployments(Checkout.at(tmp_path))
