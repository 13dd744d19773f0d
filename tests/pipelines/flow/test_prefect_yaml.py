"""Reading and writing prefect.yaml."""

import errno
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gan_core.errors import SettingsError
from pipelines.flow.prefect_yaml import (
    ENTRYPOINT,
    Options,
    _put,
    changed_entry,
    check_name,
    concurrency,
    new_entry,
    own_deployments,
    read_deployments,
    write_entry,
)
from pipelines.runtime.checkout import Checkout


def _deployment(lines: str, *, name: str = "a", pool: str = "{name: gantry}") -> str:
    """A prefect.yaml with one deployment, in which ``lines`` come last and replace ``pool`` if they set it."""
    own = "" if "work_pool" in lines else f"  work_pool: {pool}\n"
    return f"deployments:\n- name: {name}\n  entrypoint: {ENTRYPOINT}\n{own}  {lines}\n"


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


def test_deployments_that_are_written_at_once_are_all_kept(tmp_path, monkeypatch):
    checkout, names = Checkout.at(tmp_path), ("nightly", "weekly")

    def slow(values, *arguments):
        time.sleep(0.2)
        _put(values, *arguments)

    monkeypatch.setattr("pipelines.flow.prefect_yaml._put", slow)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: write_entry(checkout, "toy", name, new_entry(name, "toy", Options())), names))
    assert set(read_deployments(checkout)[1]) == set(names)


def test_a_file_whose_list_was_emptied_by_hand_is_filled_again(tmp_path):
    (tmp_path / "prefect.yaml").write_text("name: toy\ndeployments:\n")
    write_entry(Checkout.at(tmp_path), "toy", "nightly", new_entry("nightly", "toy", Options()))
    assert list(read_deployments(Checkout.at(tmp_path))[1]) == ["nightly"]


def test_a_name_that_prefect_does_not_accept_is_an_error():
    with pytest.raises(SettingsError, match=r"--name nightly/a: a name in Prefect must not contain /"):
        check_name("--name", "nightly/a")
    check_name("--name", "nightly a_1.b-c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_deployment("schedules: [{cron: 0 3 * * *, day_or: false}]"), "schedule '0 3 .*does not apply day_or"),
        (_deployment("schedules: [{cron: 0 3 * * *, parameters: {revision: v1}}]"), "does not apply parameters"),
        (_deployment("schedules: [{interval: 3600}]"), "schedules with cron only"),
        (_deployment("schedules: [{cron: 3}]"), "schedules with cron only"),
        (_deployment("schedule: {cron: 0 3 * * *}"), "'a': gantry deploy does not apply schedule"),
        (_deployment("", pool="{name: a, work_queue_name: urgent}"), "work_pool: .*does not apply work_queue_name"),
        (_deployment("", pool="{name: a/b}"), "work_pool: a/b: a name in Prefect must not contain /"),
    ],
)
def test_what_would_not_be_applied_is_an_error(tmp_path, text, message):
    from pipelines.flow.deployment import _wanted

    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        _wanted(own_deployments(Checkout.at(tmp_path))[1]["a"])


def test_what_prefect_writes_of_its_own_is_accepted(tmp_path):
    from pipelines.flow.deployment import _wanted

    written = (
        "schedules: [{cron: 0 3 * * *, timezone: UTC, day_or: true, active: true, parameters: {}}]\n  version: null"
    )
    (tmp_path / "prefect.yaml").write_text(_deployment(written))
    wanted = _wanted(own_deployments(Checkout.at(tmp_path))[1]["a"])
    assert wanted["schedules"] == [{"cron": "0 3 * * *", "timezone": "UTC", "active": True}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deployments: [", "not valid YAML"),
        ("deployments: {}\n- a", "not valid YAML"),
        ("deployments: 3\n", "must be a list of mappings, each with a name"),
        ("deployments: [{entrypoint: a}]\n", "must be a list of mappings, each with a name"),
        ("deployments: [{name: a}, {name: a}]\n", "'a' appears twice"),
        (_deployment("work_pool: p"), "work_pool of .*'a' must be a mapping"),
        (_deployment("tags: nightly"), "tags of .*'a' must be a list of texts"),
        (_deployment("triggers: {type: event}"), "triggers of .*'a' must be a list of mappings"),
        (_deployment("pull: [clone]"), "pull of .*'a' must be a list of mappings"),
        (_deployment("tags: []", name="2024"), "the name 2024 .* Put it in quotes"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / "prefect.yaml").write_text(text)
    with pytest.raises(SettingsError, match=rf"prefect.yaml: .*{message}.*git checkout prefect.yaml"):
        read_deployments(Checkout.at(tmp_path))
