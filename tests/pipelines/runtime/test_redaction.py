"""No secret of the environment leaves the process: not in a message, a log, an event, a run or a process's arguments."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.runtime.redaction import redact_credentials, register_secret
from pipelines.settings.schema import load_settings
from pipelines.settings.secrets import has_secret
from pipelines.tracking import RunLog
from pipelines.tracking.store import error_summary
from tests.pipelines.toy import CHECKOUT, environment

SECRET = "s3cr3t-Xy.9"


@pytest.mark.parametrize(
    ("service", "text", "clean"),
    [
        ("MLflow", f"View run a at: http://me:{SECRET}@host:5000/#/runs/1", "View run a at: http://host:5000/#/runs/1"),
        ("MLflow, an at sign in it", "http://me:p@ss@host/a@b", "http://host/a@b"),
        (
            "PostgreSQL, more behind it",
            "postgresql://h/d?user=u&password=x&ssl=1",
            "postgresql://h/d?user=u&password=***&ssl=1",
        ),
        ("MLflow, a token as user", "https://dapi0123@host/api", "https://host/api"),
        ("Prefect", f"no answer from https://u:{SECRET}@prefect/api", "no answer from https://prefect/api"),
        ("PostgreSQL", f"postgresql+psycopg://u:{SECRET}@db:5432/m", "postgresql+psycopg://db:5432/m"),
        ("PostgreSQL, a slash in it", "postgresql://u:a/b?c#d@db/m", "postgresql://db/m"),
        (
            "PostgreSQL, in the query",
            f"postgresql://db/m?user=u&password={SECRET}",
            "postgresql://db/m?user=u&password=***",
        ),
        ("PostgreSQL, libpq's form", f"host=db password={SECRET} user=u", "host=db password=*** user=u"),
        ("S3", "https://b.s3/x?X-Amz-Date=1&X-Amz-Signature=ab12", "https://b.s3/x?X-Amz-Date=1&X-Amz-Signature=***"),
        ("Azure", "https://b.blob/x?se=2027&sig=ab%2F12", "https://b.blob/x?se=2027&sig=***"),
        ("DVC remote", f"webdavs://u:{SECRET}@files/dvc is locked", "webdavs://files/dvc is locked"),
        ("fsspec", f"sftp://u:{SECRET}@host/pictures.zip cannot be read", "sftp://host/pictures.zip cannot be read"),
        ("a proxy", f"HTTP_PROXY=http://u:{SECRET}@proxy:3128", "HTTP_PROXY=http://proxy:3128"),
        ("a header", "Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
        ("two in one text", "http://a:b@h and http://c:d@i", "http://h and http://i"),
        ("JSON", '{"uri":"http://a:b@h","who":"x@y"}', '{"uri":"http://h","who":"x@y"}'),
    ],
)
def test_passwords_in_addresses_are_removed(service: str, text: str, clean: str) -> None:
    assert redact_credentials(text, {}) == clean


@pytest.mark.parametrize(
    "text",
    [
        "models:/digits@champion at http://127.0.0.1:5000/#/models/digits@champion",
        "ssh://git@example.org/repository and git@example.org:repository",
        "sqlite:////home/me@work/var/mlflow.db",
        "sqlite:////a@b/mlflow.db",
        "120/400 steps, 55 images/s, D right on real 0.61",
        "token=5 of the latent, Basic colours",
        "write to me@example.org, see http://example.org",
    ],
)
def test_a_text_without_secrets_is_not_changed(text: str) -> None:
    assert (
        redact_credentials(text, {"CI": "true", "TOKEN_PATH": "steps", "USE_TOKEN": "true", "A_TOKEN_TTL": "400"})
        == text
    )
    assert not has_secret(text)


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "RAY_AUTH_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "PREFECT_API_KEY",
        "PGPASSWORD",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_KEY",
        "MYSQL_PWD",
        "DB_PASS",
    ],
)
def test_secrets_of_the_environment_are_removed_wherever_they_appear(name: str) -> None:
    assert redact_credentials(f"refused: {SECRET}.", {name: SECRET}) == "refused: ***."


def test_a_secret_of_several_lines_is_removed_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nc2hvcnQ0bGluZXM5OTk=\n-----END KEY-----\n"
    for text in (key, repr(key), *key.splitlines()):
        clean = redact_credentials(text, {"DEPLOY_PRIVATE_KEY": key})
        assert "MIIEvQ" not in clean
        assert "c2hvcn" not in clean


def test_a_password_of_an_address_in_the_environment_is_removed_in_every_form() -> None:
    known = {"GANTRY_TRACKING_URI": "http://me:p%40ss%2Fword@host"}
    header = base64.b64encode(b"me:p@ss/word").decode()
    assert redact_credentials(f"p@ss/word p%40ss%2Fword {header}", known) == "*** *** ***"


def test_the_password_in_an_authentication_string_is_a_secret() -> None:
    known = {"PREFECT_SERVER_API_AUTH_STRING": f"admin:{SECRET}"}
    header = base64.b64encode(f"admin:{SECRET}".encode()).decode()
    assert redact_credentials(f"admin:{SECRET} {SECRET} {header}", known) == "*** *** ***"


def test_the_name_of_a_key_is_no_secret() -> None:
    """An S3 server's key is often named as its bucket, which is part of every address in it."""
    known = {"AWS_ACCESS_KEY_ID": "pictures", "AWS_SECRET_ACCESS_KEY": SECRET}
    assert redact_credentials(f"s3://pictures/a with {SECRET}", known) == "s3://pictures/a with ***"


def test_a_short_secret_is_removed_only_as_a_whole_word() -> None:
    assert redact_credentials("the latest test", {"A_PASSWORD": "test"}) == "the latest ***"


def test_a_registered_secret_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runtime.redaction._kept", set())
    register_secret("0123456789abcdef")
    assert redact_credentials("token 0123456789abcdef", {}) == "token ***"


NOISY = """
import logging, sys
from pipelines.runtime.redaction import redact_output
logging.basicConfig(level=logging.INFO, stream=sys.stdout)  # a handler that is older than the redaction
redact_output()
redact_output()
import os
uri = os.environ["GANTRY_TRACKING_URI"]
print("printed", uri, flush=True)
sys.stderr.write(f"written {uri}\\n")
logging.info("logged %s", uri)
try:
    raise ValueError(f"raised {uri}")
except ValueError:
    logging.exception("caught")
raise RuntimeError(f"not caught {uri}")
"""


def test_printed_logged_and_raised_text_holds_no_secret() -> None:
    known = environment(GANTRY_TRACKING_URI=f"http://me:{SECRET}@host")
    done = subprocess.run([sys.executable, "-c", NOISY], env=known, capture_output=True, text=True, cwd=CHECKOUT)
    told = done.stdout + done.stderr
    for words in ("printed http://host", "written http://host", "logged http://host", "raised http", "not caught http"):
        assert words in told
    assert SECRET not in told


def test_the_event_log_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    with RunLog(tmp_path, key="a", name=f"run {SECRET}", tags={"why": SECRET}) as log:
        log.log_params({"train": {"from": [f"http://u:{SECRET}@h"], "steps": 3}})
        log.set_tags({"uri": f"http://u:{SECRET}@h"})
        log.log_dataset("digits", source=f"s3://k:{SECRET}@bucket/x", digest="0")
    content = (log.folder / "events.jsonl").read_text()
    assert SECRET not in content
    assert json.loads(content.splitlines()[1])["values"]["train.steps"] == "3"


def test_a_quoted_error_holds_no_secret() -> None:
    assert error_summary(ConnectionError(f"http://u:{SECRET}@h refused")) == "http://h refused"


class _Tracker(BaseHTTPRequestHandler):
    """The part of a tracking server that MLflow uses when a run ends."""

    def do_GET(self) -> None:
        info = {
            "run_id": "r",
            "run_name": "train",
            "experiment_id": "1",
            "status": "RUNNING",
            "lifecycle_stage": "active",
        }
        self._answer({"run": {"info": info, "data": {}}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"run_info": {"run_id": "r"}})

    def _answer(self, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tracker() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tracker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


ENDS_A_RUN = """
import os
from pipelines.runtime.redaction import redact_output
redact_output()
from pipelines.tracking.store import connect
connect(os.environ["GANTRY_TRACKING_URI"]).set_terminated("r")
"""


def test_mlflows_line_at_the_end_of_a_run_holds_no_password(tracker: int) -> None:
    known = environment(GANTRY_TRACKING_URI=f"http://me:{SECRET}@127.0.0.1:{tracker}")
    done = subprocess.run([sys.executable, "-c", ENDS_A_RUN], env=known, capture_output=True, text=True, cwd=CHECKOUT)
    told = done.stdout + done.stderr
    assert f"View run train at: http://127.0.0.1:{tracker}/#/experiments/1/runs/r" in told
    assert SECRET not in told


def test_the_warning_about_an_unreachable_server_holds_no_password(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((CHECKOUT / "params.yaml").read_bytes())
    RunLog(tmp_path / "var" / "track", key="a", name="train").close()
    for uri in (f"http://me:{SECRET}@127.0.0.1:9", f"postgresql://me:{SECRET}@127.0.0.1:9/mlflow"):
        known = environment(GANTRY_TRACKING_URI=uri)
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", "track", "sync"]
        done = subprocess.run(command, env=known, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1
        assert "127.0.0.1:9" in done.stderr
        assert SECRET not in done.stdout + done.stderr


def test_data_add_does_not_repeat_the_password_of_its_source(tmp_path: Path) -> None:
    source = f"http://me:{SECRET}@127.0.0.1:9/pictures.zip"
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "data", "add", "mine", source]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "http://127.0.0.1:9/pictures.zip cannot be read" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []


def test_workers_are_not_sent_the_tracking_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRY_TRACKING_URI", f"http://me:{SECRET}@host")
    settings = load_settings(CHECKOUT / "params.yaml")
    assert SECRET in settings.track.uri
    assert SECRET not in json.dumps(settings.for_workers())
