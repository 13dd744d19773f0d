"""A file is fetched from the first address that works, atomically and with its SHA-256 checked."""

import gzip
import hashlib
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_core.download.fetch import CONNECT_SECONDS, Debian, Derived, FileRequest, Npm, PyPi, Url, fetch, fetch_many
from gan_core.errors import FetchError

CONTENT = b"pictures, pictures" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# No process listens on this port, so the connection is refused at once.
DEAD = Url(url="http://127.0.0.1:9/content.bin")


class Site:
    """A folder served over HTTP, and the paths that were requested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requested: list[str] = []
        site = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                site.requested.append(self.path)
                if self.path == "/cut.bin":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(CONTENT)))
                    self.end_headers()
                    self.wfile.write(CONTENT[:100])
                    return
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name: str, member: str | None = None) -> Url:
        return Url(url=f"http://127.0.0.1:{self.server.server_port}/{name}", member=member)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "content.bin").write_bytes(CONTENT)
    (folder / "content.bin.gz").write_bytes(gzip.compress(CONTENT))
    with zipfile.ZipFile(folder / "pack.zip", "w") as zipped:
        zipped.writestr("inside/content.bin", CONTENT)
        zipped.writestr("inside/other.bin", b"other")
    with tarfile.open(folder / "pack.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("./inside/content.bin.gz")
        packed = gzip.compress(CONTENT)
        member.size = len(packed)
        tar.addfile(member, io.BytesIO(packed))
    made = Site(folder)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_existing_file_with_the_right_content_is_not_fetched_again(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "content.bin"
    target.write_bytes(CONTENT)
    assert fetch(target, sha256=SHA256, addresses=[site.url("content.bin")], label="test") == target
    assert site.requested == []


def test_an_existing_file_with_wrong_content_is_replaced(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "content.bin"
    target.write_bytes(b"half")
    fetch(target, sha256=SHA256, addresses=[site.url("content.bin")], label="test")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("content.bin", None),
        ("content.bin.gz", None),
        ("pack.zip", "inside/content.bin"),
        ("pack.tar.gz", "inside/content.bin.gz"),
    ],
)
def test_every_kind_of_archive_gives_the_same_file(tmp_path: Path, site: Site, name: str, member: str | None) -> None:
    target = fetch(tmp_path / "a" / "content.bin", sha256=SHA256, addresses=[site.url(name, member)], label="test")
    assert target.read_bytes() == CONTENT


def test_a_gzip_target_stays_compressed(tmp_path: Path, site: Site) -> None:
    packed = (site.folder / "content.bin.gz").read_bytes()
    sha256 = hashlib.sha256(packed).hexdigest()
    target = fetch(tmp_path / "content.bin.gz", sha256=sha256, addresses=[site.url("content.bin.gz")], label="test")
    assert target.read_bytes() == packed


def test_the_next_address_is_tried_after_logging_a_failure(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = [DEAD, site.url("missing.bin"), site.url("cut.bin"), site.url("content.bin")]
    fetch(tmp_path / "content.bin", sha256=SHA256, addresses=addresses, label="test")
    assert site.requested == ["/missing.bin", "/cut.bin", "/content.bin"]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "cannot be reached" in warned[0]
    assert "404" in warned[1]
    assert "100 of" in warned[2] or "IncompleteRead" in warned[2]


def test_wrong_content_is_refused_and_leaves_no_file(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "folder" / "content.bin"
    with pytest.raises(FetchError, match="expected 0000") as caught:
        fetch(target, sha256="0" * 64, addresses=[site.url("content.bin"), DEAD], label="the test")
    message = str(caught.value)
    assert "content.bin" in message
    assert "the test" in message
    assert DEAD.url in message
    assert str(target) in message
    assert list(target.parent.iterdir()) == []


def test_a_missing_member_is_named(tmp_path: Path, site: Site) -> None:
    with pytest.raises(FetchError, match="no member nowhere/x"):
        fetch(tmp_path / "x", sha256=SHA256, addresses=[site.url("pack.zip", "nowhere/x")], label="test")


def test_an_archive_is_downloaded_once_for_several_files(tmp_path: Path, site: Site) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    fetch_many(
        [
            FileRequest(target=tmp_path / "a", sha256=SHA256, addresses=[site.url("pack.zip", "inside/content.bin")]),
            FileRequest(target=tmp_path / "b", sha256=other, addresses=[site.url("pack.zip", "inside/other.bin")]),
        ],
        label="test",
    )
    assert site.requested == ["/pack.zip"]
    assert (tmp_path / "b").read_bytes() == b"other"


def test_an_unreachable_host_causes_one_warning(tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    files = [
        FileRequest(target=tmp_path / name, sha256=SHA256, addresses=[DEAD, site.url("content.bin")])
        for name in ("a", "b")
    ]
    fetch_many(files, label="test")
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1


def test_an_unknown_host_fails_fast(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(tmp_path / "x", sha256=SHA256, addresses=[Url(url="https://gantry.invalid/x")], label="test")
    assert time.monotonic() - start < CONNECT_SECONDS + 2


def test_a_derived_file_is_built_from_its_parts(tmp_path: Path, site: Site) -> None:
    def join(parts: object, to: Path) -> None:
        to.write_bytes(b"".join(part.read_bytes() for part in parts))  # type: ignore[attr-defined]

    address = Derived(
        parts=(site.url("content.bin"), site.url("pack.zip", "inside/other.bin")), build=join, what="two parts"
    )
    sha256 = hashlib.sha256(CONTENT + b"other").hexdigest()
    target = fetch(tmp_path / "joined", sha256=sha256, addresses=[address], label="test")
    assert target.read_bytes() == CONTENT + b"other"


# The clients of the registries, with local packages: these tests need no network.


def test_a_wheel_is_downloaded_by_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "gantry_fetch_sample-1.0-py3-none-any.whl", "w") as wheel:
        info = "gantry_fetch_sample-1.0.dist-info"
        wheel.writestr("gantry_fetch_sample/content.bin", CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gantry-fetch-sample\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"gantry_fetch_sample/content.bin,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    address = PyPi(requirement="gantry-fetch-sample==1.0", member="gantry_fetch_sample/content.bin")
    assert fetch(tmp_path / "c", sha256=SHA256, addresses=[address], label="test").read_bytes() == CONTENT
    absent = PyPi(requirement="gantry-fetch-sample==2.0", member="gantry_fetch_sample/content.bin")
    with pytest.raises(FetchError, match=r"gantry-fetch-sample==2\.0"):
        fetch(tmp_path / "d", sha256=SHA256, addresses=[absent], label="test")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_tarball_is_downloaded_by_npm(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "gantry-fetch-sample", "version": "1.0.0"}))
    (package / "content.bin").write_bytes(CONTENT)
    address = Npm(package=str(package), member="package/content.bin")
    assert fetch(tmp_path / "c", sha256=SHA256, addresses=[address], label="test").read_bytes() == CONTENT


@pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="this is not a Debian machine"
)
def test_a_debian_package_is_downloaded_by_apt_without_changing_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, repository = tmp_path / "tree", tmp_path / "repository"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share/sample").mkdir(parents=True)
    (tree / "usr/share/sample/content.bin").write_bytes(CONTENT)
    control = "Package: gantry-fetch-sample\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@invalid>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    repository.mkdir()
    deb = repository / "gantry-fetch-sample_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True, capture_output=True)
    sums = f"Size: {deb.stat().st_size}\nSHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"
    (repository / "Packages").write_text(f"{control}Filename: ./{deb.name}\n{sums}")
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    state = tmp_path / "state"
    (state / "lists/partial").mkdir(parents=True)
    # A machine whose only source is the repository above, and whose package lists have never been fetched.
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::SourceList "{tmp_path}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{state}/lists";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    address = Debian(package="gantry-fetch-sample", member="usr/share/sample/content.bin")
    assert fetch(tmp_path / "c", sha256=SHA256, addresses=[address], label="test").read_bytes() == CONTENT
    assert [path.name for path in (state / "lists").iterdir()] == ["partial"]


def test_a_folder_that_cannot_be_written_to_is_not_taken_for_a_failure_of_the_addresses(
    tmp_path: Path, site: Site
) -> None:
    (tmp_path / "file").touch()  # root may write to every folder, but not to a file as if it were one
    target = tmp_path / "file" / "content.bin"
    with pytest.raises(FileExistsError) as caught:
        fetch(target, sha256=SHA256, addresses=[site.url("content.bin")], label="test")
    assert caught.value.filename == str(target)
    assert site.requested == []


def test_an_interrupted_fetch_leaves_nothing_behind(tmp_path: Path, site: Site) -> None:
    target = tmp_path / "out" / "content.bin"
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom gan_core.download.fetch import Derived, fetch\n"
        "def build(parts, to):\n    to.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "fetch(Path(sys.argv[1]), sha256='0', addresses=[Derived(parts=(), build=build, what='x')], label='x')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert list(target.parent.iterdir()) == []
