"""Ingestion on hosts that share only a storage writes the same bytes as on one host, also if a host is killed."""

import time
from pathlib import Path

import pytest

from gan_core.files import sha256_file
from infra.hosts.hosts import HostsError, check_machine
from pipelines.data.ingest import ingest
from pipelines.settings.ingest import IngestSettings
from tests.infra.cluster import cluster
from tests.pipelines.data.samples import pets

try:
    check_machine()
except HostsError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.hosts

SETTINGS = {"size": (16, 16), "test_share": 0.2, "shard_pictures": 100}
EACH = 200
PROGRAM = f"""
import time
from pathlib import Path
from pipelines.runtime.environment import set_up_environment
set_up_environment()
import os
from pipelines.data import ingest as module
from pipelines.data.convert import convert
from pipelines.data.exchange import exchange_through
from pipelines.data.mapping import map_with_ray
from pipelines.data.raw import add
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.cluster import ray_cluster
from pipelines.settings.ingest import IngestSettings
from pipelines.storage.objects import Storage
from tests.pipelines.data.samples import pets

pictures, checkout = pets(Path("/opt/pictures"), each={EACH}), Checkout.at("/opt/gantry")
bucket = Storage("s3://gantry/pictures")
for path in pictures.rglob("*.png"):
    bucket.write(path.relative_to(pictures).as_posix(), path)
raw = add("pets", "s3://gantry/pictures", checkout=checkout).path
folder = add("folder", str(pictures), checkout=checkout).path  # on the disk of the driver alone
module._CHUNK = 10


def convert_slowly(spec):
    time.sleep(1)
    return convert(spec)


def mapper(function, items):
    for result in map_with_ray(4)(convert_slowly if function is convert else function, items):
        with open("/opt/progress", "a") as file:
            file.write("done\\n")
        yield result


with ray_cluster(checkout, log_to_driver=False):
    for source, name, run in ((raw, "from-bucket", mapper), (folder, "from-folder", map_with_ray(4))):
        with exchange_through(os.environ["GANTRY_STORAGE_URI"], f"work/{{name}}") as exchange:
            settings = IngestSettings(**{SETTINGS!r})
            module.ingest(source, f"/opt/{{name}}", settings, name="pets", mapper=run, exchange=exchange)
"""


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_a_host_killed_during_ingestion_changes_no_byte(tmp_path):
    with cluster("10.93.0", tmp_path) as made:
        process = made.drive(PROGRAM, log=tmp_path / "driver.log")
        progress = made.hosts["driver"].files("/opt/progress")
        working = ""
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if not working and progress.exists() and progress.read_text().count("done") >= 8:
                working = made.hosts["b"].run(["ps", "-eo", "args"]).stdout
                made.hosts["b"].kill()
        output = (tmp_path / "driver.log").read_text()
        assert process.poll() == 0, output[-4000:]
        assert "ray::convert_slowly" in working, "no task ran on the host that was killed"
        shared = [digests(made.hosts["driver"].files(f"/opt/from-{source}")) for source in ("bucket", "folder")]
    ingest(pets(tmp_path / "pets", each=EACH), tmp_path / "alone", IngestSettings(**SETTINGS), name="pets")
    alone = digests(tmp_path / "alone")
    assert shared == [alone, alone], "from the bucket, and from a folder on the driver"
    assert len(alone) == 2 + 4 + 1
