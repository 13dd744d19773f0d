"""Google Cloud Storage on loopback for tests: its XML API, in memory, as far as Gantry's client uses it.

There is no server of it in the package indexes. Conditions, errors and listings follow
https://docs.cloud.google.com/storage/docs/xml-api/overview; what it refuses, Google's refuses too.
"""

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_PAGE = 1000


@dataclass(frozen=True)
class GoogleServer:
    """A running server."""

    endpoint: str
    bucket: str
    key: Path
    """The key file of its service account."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients reach it."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}


@dataclass
class _Object:
    content: bytes
    generation: int
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


@contextmanager
def google_server(folder: Path, bucket: str = "gantry") -> Iterator[GoogleServer]:
    """Start a server with one bucket, and write the key file of a service account to ``folder``."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    account = {
        "type": "service_account",
        "client_email": "gantry@tests.iam.gserviceaccount.com",
        "private_key_id": "tests",
        "private_key": key.private_bytes(*kinds).decode(),
    }
    (folder / "key.json").write_text(json.dumps(account))
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(bucket)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield GoogleServer(f"http://127.0.0.1:{server.server_port}", bucket, folder / "key.json")
        finally:
            server.shutdown()
            thread.join()


def _handler(bucket: str) -> type[BaseHTTPRequestHandler]:
    objects: dict[str, _Object] = {}
    uploads: dict[str, dict[int, bytes]] = {}
    mutex = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            named, _, name = parts.path[1:].partition("/")
            query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
            with mutex:
                if not (self.headers.get("Authorization") or "").startswith("Bearer "):
                    self._refuse(401, "AuthenticationRequired", "Authentication required.")
                elif named != bucket:
                    self._refuse(404, "NoSuchBucket", "The specified bucket does not exist.")
                elif not name:
                    self._list(query)
                else:
                    getattr(self, f"_{self.command.lower()}")(unquote(name), query, body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the names that http.server looks for

        def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for header, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(header.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def _send_xml(self, status: int, root: str, content: str) -> None:
            self._send(status, f"<?xml version='1.0' encoding='UTF-8'?><{root}>{content}</{root}>".encode())

        def _refuse(self, status: int, code: str, message: str) -> None:
            if self.command == "HEAD":
                self._send(status)
            else:
                self._send_xml(status, "Error", f"<Code>{code}</Code><Message>{message}</Message>")

        def _store(self, name: str, content: bytes) -> dict[str, str]:
            objects[name] = found = _Object(content, objects[name].generation + 1 if name in objects else 1)
            return {"ETag": found.tag, "x_goog_generation": str(found.generation)}

        def _put(self, name: str, query: dict[str, str], body: bytes) -> None:
            if "uploadId" in query:
                uploads[query["uploadId"]][int(query["partNumber"])] = body
                self._send(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
            elif self.headers.get("x-goog-if-generation-match") == "0" and name in objects:
                self._refuse(
                    412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold."
                )
            else:
                self._send(200, **self._store(name, body))

        def _post(self, name: str, query: dict[str, str], body: bytes) -> None:
            if "uploads" in query:
                upload = uuid.uuid4().hex
                uploads[upload] = {}
                self._send_xml(200, "InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
            else:
                written = uploads.pop(query["uploadId"])
                headers = self._store(name, b"".join(written[part] for part in sorted(written)))
                tag = f"<ETag>{escape(headers['ETag'])}</ETag>"
                self._send_xml(200, "CompleteMultipartUploadResult", tag)

        def _get(self, name: str, query: dict[str, str], body: bytes) -> None:
            if name not in objects:
                self._refuse(404, "NoSuchKey", "The specified key does not exist.")
                return
            found = objects[name]
            headers = {
                "ETag": found.tag,
                "x_goog_generation": str(found.generation),
                "Last_Modified": format_datetime(found.modified, usegmt=True),
            }
            size, asked = len(found.content), self.headers.get("Range")
            if asked:
                first, last = (int(text) if text else size - 1 for text in asked.removeprefix("bytes=").split("-"))
                if first >= size:
                    self._refuse(416, "InvalidRange", "The requested range cannot be satisfied.")
                    return
                last = min(last, size - 1)
                self._send(
                    206, found.content[first : last + 1], Content_Range=f"bytes {first}-{last}/{size}", **headers
                )
            elif self.command == "HEAD":
                self.send_response(200)
                for header, value in {"Content-Length": str(size), **headers}.items():
                    self.send_header(header.replace("_", "-"), value)
                self.end_headers()
            else:
                self._send(200, found.content, **headers)

        _head = _get

        def _delete(self, name: str, query: dict[str, str], body: bytes) -> None:
            if objects.pop(name, None) is None:
                self._refuse(404, "NoSuchKey", "The specified key does not exist.")
            else:
                self._send(204)

        def _list(self, query: dict[str, str]) -> None:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            begin = query.get("continuation-token") or query.get("start-after", "")
            entries: dict[str, str] = {}
            for name in sorted(objects):
                if not name.startswith(prefix) or name <= begin:
                    continue
                below = name[len(prefix) :]
                if delimiter and delimiter in below:
                    folder = prefix + below.partition(delimiter)[0] + delimiter
                    entries.setdefault(folder, f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>")
                else:
                    found = objects[name]
                    entries[name] = (
                        f"<Contents><Key>{escape(name)}</Key><Size>{len(found.content)}</Size><ETag>{escape(found.tag)}</ETag>"
                        f"<LastModified>{found.modified:%Y-%m-%dT%H:%M:%S.%fZ}</LastModified></Contents>"
                    )
            page = list(entries.items())[:_PAGE]
            more = len(entries) > len(page)
            token = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if more else ""
            listed = "".join(text for _, text in page)
            self._send_xml(200, "ListBucketResult", f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{listed}")

    return Handler
