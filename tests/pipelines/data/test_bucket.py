"""Pictures that stay in a bucket are listed with their versions, and read where they are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gan_core.cache import user_cache_dir
from gan_core.errors import DataError
from gan_core.files import sha256_file
from pipelines.data import ingest as module
from pipelines.data import names
from pipelines.data.bucket import is_bucket
from pipelines.data.exchange import SCRATCH, exchange_through
from pipelines.data.ingest import ingest
from pipelines.data.raw import add
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import StageDefinition
from pipelines.settings.ingest import IngestSettings
from pipelines.stages import ingest as stage
from pipelines.stages.context import StageContext
from pipelines.storage.folders import data_name, fetch_folder
from pipelines.storage.lease import current_holder
from pipelines.storage.objects import Storage, StorageError
from tests.pipelines.data.samples import pets, png, write
from tests.pipelines.settings_example import small_settings
from tests.s3_server import s3_server

SMALL = IngestSettings(size=(8, 8), channels=3, test_share=0.3)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an empty bucket."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        yield f"s3://{server.bucket}"


def sent(folder: Path, uri: str) -> Storage:
    """The files of ``folder`` as objects."""
    storage = Storage(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(path.relative_to(folder).as_posix(), path)
    return storage


def prepared(raw: Path, out: Path) -> dict[str, str]:
    """Digests of the files that ingestion writes."""
    ingest(raw, out, SMALL, name="pets")
    return {path.name: sha256_file(path) for path in out.iterdir()}


def test_the_same_bytes_are_prepared_from_a_bucket_as_from_a_folder(bucket: str, tmp_path: Path) -> None:
    pictures = pets(tmp_path / "pets")
    (pictures / "cat" / "notes.txt").write_text("soft")
    sent(pictures, f"{bucket}/pets")
    added = add("pets", f"{bucket}/pets/", checkout=Checkout.at(tmp_path))
    assert (added.format, added.kind, added.classes, added.ignored) == ("bucket", "labelled", ("cat", "dog"), 1)
    assert sorted(path.name for path in added.path.iterdir()) == ["objects.parquet", "source.json"]
    assert prepared(added.path, tmp_path / "there") == prepared(pictures, tmp_path / "here")
    before = sha256_file(added.path / "objects.parquet")
    again = add("pets", f"{bucket}/pets", checkout=Checkout.at(tmp_path), replace=True)
    assert sha256_file(again.path / "objects.parquet") == before


def test_tasks_that_share_only_the_storage_write_the_same_bytes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)
    pictures = pets(tmp_path / "pets", each=20)
    write(pictures / "cat" / "copy.png", png(0))
    sent(pictures, f"{bucket}/shared")
    added = add("pets", f"{bucket}/shared", checkout=Checkout.at(tmp_path))
    settings = replace(SMALL, shard_pictures=9)
    ingest(pictures, tmp_path / "alone", settings, name="pets")
    uri = f"{bucket}/storage"
    with exchange_through(uri, "work/ingest/key") as exchange:
        parts = Storage(uri)
        parts.write("work/ingest/key/left-by-another", b"")
        ingest(added.path, tmp_path / "shared", settings, name="pets", exchange=exchange)
        assert len(list(parts.entries("work/ingest/key/00000001"))) == 6
    assert not list(parts.entries("work/ingest/key/00000001"))
    alone = {path.name: sha256_file(path) for path in (tmp_path / "alone").iterdir()}
    assert len(alone) > 6
    assert {path.name: sha256_file(path) for path in (tmp_path / "shared").iterdir()} == alone
    published = data_name(alone["dataset.json"])
    fetch_folder(parts, published, tmp_path / "fetched")
    assert {path.name: sha256_file(path) for path in (tmp_path / "fetched").iterdir()} == alone
    assert not list((user_cache_dir() / SCRATCH).iterdir())


def test_an_object_that_changed_or_vanished_is_named(bucket: str, tmp_path: Path) -> None:
    pictures = pets(tmp_path / "pets")
    storage = sent(pictures, f"{bucket}/changing")
    added = add("pets", f"{bucket}/changing", checkout=Checkout.at(tmp_path))
    name = next(path for path in sorted(pictures.rglob("*.png"))).relative_to(pictures).as_posix()
    content = storage.read(name)
    storage.write(name, content + b"x")
    with pytest.raises(DataError, match=rf"{bucket}/changing/{name} has changed since it was added.*--replace NAME"):
        prepared(added.path, tmp_path / "out")
    storage.delete(name)
    with pytest.raises(DataError, match=rf"{bucket}/changing/{name} is no longer there since it was added"):
        prepared(added.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    storage.write(name, content)
    prepared(added.path, tmp_path / "out")


def test_objects_whose_names_are_one_on_the_disk_are_refused(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(write(tmp_path / "a" / "cat" / "1.png", png(0)).parents[1], f"{bucket}/cases")
    sent(write(tmp_path / "b" / "Cat" / "2.png", png(1)).parents[1], f"{bucket}/cases")
    added = add("pets", f"{bucket}/cases", checkout=Checkout.at(tmp_path))
    monkeypatch.setattr(names, "_tells_apart", lambda folder, one, other: False)  # as on macOS and Windows
    with pytest.raises(
        DataError, match=rf"^{bucket}/cases: Cat and cat are one name on the disk of .*Rename one of them"
    ):
        prepared(added.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_in_a_bucket_are_read_by_their_folders(bucket: str, tmp_path: Path) -> None:
    storage = Storage(f"{bucket}/pairs")
    for number in range(6):
        storage.write(f"photo/{number}.png", png(number))
        storage.write(f"sketch/{number}.png", png(number + 100))
    added = add("pairs", f"{bucket}/pairs", checkout=Checkout.at(tmp_path))
    settings = IngestSettings(kind="paired", size=(8, 8), channels=3, max_duplicate_share=1.0)
    info = ingest(added.path, tmp_path / "out", settings, name="pairs")
    assert info.kind == "paired"
    assert sum(info.splits.values()) + sum(info.rejects.values()) == 6


def test_a_bucket_that_is_not_there_or_is_empty_is_an_error(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no objects. Correct the name"):
        add("none", f"{bucket}/nothing", checkout=Checkout.at(tmp_path))
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'. Create it, or correct the source"):
        add("none", "s3://nowhere/x", checkout=Checkout.at(tmp_path))
    with pytest.raises(DataError, match="label tables are not read.*--copy"):
        add("none", f"{bucket}/pets", checkout=Checkout.at(tmp_path), labels="labels.csv")
    assert not (tmp_path / "data" / "raw" / "none").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bucket", True),
        ("gs://bucket/a/b/", True),
        ("az://container/v1.5", True),
        ("s3://bucket/pictures.zip", False),
        ("s3://bucket/train.parquet", False),
        ("s3://bucket/train-images-idx3-ubyte", False),
        ("https://host/pictures", False),
        ("file:///pictures", False),
        ("pictures", False),
    ],
)
def test_an_archive_or_a_file_in_a_bucket_is_copied(source: str, expected: bool) -> None:
    assert is_bucket(source) is expected


def test_the_stage_publishes_the_prepared_data_in_the_storage(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(pets(tmp_path / "pets"), f"{bucket}/stage")
    checkout = Checkout.at(tmp_path / "checkout")
    add("pets", f"{bucket}/stage", checkout=checkout)
    monkeypatch.setenv("GANTRY_STORAGE_URI", f"{bucket}/run")
    settings = small_settings(data__name="pets", ingest__workers=1, track__uri=f"sqlite:///{tmp_path}/mlflow.db")
    definition = StageDefinition(
        name="ingest", command=(), dependencies={}, parameters={}, outs=("data/prepared",), replayable=True
    )
    context = StageContext(
        name="ingest",
        key="key",
        work=tmp_path / "work",
        checkout=checkout,
        pipeline_run="run",
        definition=definition,
    )
    (prepared,) = stage.run(context, settings).values()
    fetch_folder(Storage(f"{bucket}/run"), data_name(sha256_file(prepared / "dataset.json")), tmp_path / "fetched")
    assert {path.name for path in (tmp_path / "fetched").iterdir()} == {path.name for path in prepared.iterdir()}
    assert current_holder(Storage(f"{bucket}/run"), "work/ingest/key") is None
