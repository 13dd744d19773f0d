"""Each part runs in its smallest form on a processor, says what needs a card, and needs little besides PyTorch."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gan_core import randomness
from gan_core.errors import DataError, GantryError, SettingsError
from gan_core.files import read_json, sha256_file
from gan_core.presets.choose import Choice, choose
from gan_core.randomness import WorkerSlice
from gan_core.training.generator import AveragedGenerator
from tests.bench.trainers import auto_trainer, made_up_data
from tests.gpu import __main__ as command
from tests.gpu import correct, pack, quality, speed
from tests.gpu.report import LARGEST_FILE, Record, Row, at_least, at_most, failed, summary, table, too_large
from tests.gpu.speed import count_step
from tests.gpu.tiny import SIDE, TINY
from tests.gpu.worker import RUNNING, Item, Options, code_files, items_of, measure


@pytest.fixture(autouse=True)
def _process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give back what a measuring process sets for itself: one thread in the small form, and its caches."""
    for name in ("GANTRY_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    list(pack.fill(folder, small=True))
    return folder


def options(tmp_path: Path, pieces: Path, part: str, family: str | None = None, only: str = "*") -> Options:
    return Options(
        part=part,
        family=family,
        out=tmp_path / "out",
        work=tmp_path / "work",
        pack=pieces,
        since=time.time(),
        deadline=time.time() + 300,
        small=True,
        only=only,
    )


def rows_of(plan: Options) -> dict[str, Row]:
    record = Record(plan.record)
    return {row.name: row for name in record.names for row in record.rows(name)}


@pytest.mark.parametrize(
    ("part", "family", "only"),
    [
        ("correct", None, "dcgan *"),
        ("correct", None, "stargan penalties"),
        ("correct", None, "[!bcdprs]*"),
        ("correct", None, "fid of cifar10"),
        ("speed", None, "dcgan*"),
        ("speed", None, "fid-50k"),
        ("scale", None, "*"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the small form is for processors")
def test_a_part_runs_on_a_processor_and_says_what_needs_a_card(
    part: str, family: str | None, only: str, tmp_path: Path, small_pack: Path
) -> None:
    plan = options(tmp_path, small_pack, part, family, only)
    measure(plan)
    rows = rows_of(plan)
    assert rows
    assert {row.state for row in rows.values()} <= {"ok", "figure", "needs CUDA", "left out"}, table(
        Record(plan.record)
    )
    for name, row in rows.items():
        assert (row.state == "needs CUDA") == (row.value is None and any(said in name for said in CARD)), name
    assert not too_large(plan.out)


CARD = (
    "the card",
    "compiled networks",
    "CUDA graphs",
    "in compiled runs",
    "kernels a step",
    "efficiency",
    "FID",
    "50k",
)
"""Parts of the names of rows that only a card can show."""


@pytest.mark.parametrize(("part", "family"), [("train", "dcgan"), ("translate", "cyclegan")])
def test_a_run_goes_on_where_the_last_call_ended(
    part: str, family: str, tmp_path: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = options(tmp_path, small_pack, part, family)
    monkeypatch.setattr("tests.gpu.quality.SAVE_SECONDS", {"cpu": 10_000.0, "cuda": 10_000.0})  # no time but for a step
    measure(plan)
    first = rows_of(plan)
    assert first[f"{family}: thousand images seen"].note.startswith("1 of 4 steps")
    assert first[f"{family}: FID at the end"].state == "no time"
    monkeypatch.undo()
    measure(dataclasses.replace(plan, since=time.time()))
    second = rows_of(plan)
    assert second[f"{family}: thousand images seen"].note.startswith("4 of 4 steps")
    assert second[f"{family}: FID at the end"].state == "left out"
    pictures = {path.name for path in plan.folder.glob("*.png")}
    assert pictures == {"latest.png", "step-00000000.png", "step-00000004.png"}


def test_operations_of_a_step_are_those_that_torch_counts_also_with_a_penalty(tmp_path: Path) -> None:
    counted = {}
    for name in ("dcgan", "r3gan"):
        data = made_up_data(name, tmp_path, SIDE, 16)
        trainers = [
            auto_trainer(name, data, tmp_path / f"{name}-{number}", torch.device("cpu"), batch=4, model=TINY[name])
            for number in range(2)
        ]
        counted[name] = count_step(trainers[0])[0]
        if name == "dcgan":  # torch's counter cannot follow a gradient that is differentiated
            with FlopCounterMode(display=False) as counter:
                trainers[1]._train_step()
            assert counted[name] == counter.get_total_flops()
    assert counted["r3gan"] > 0


def test_a_family_of_the_other_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"translate: takes one of cyclegan, .*, got dcgan"):
        items_of(options(tmp_path, tmp_path, "translate", "dcgan"))


ONLY_THESE = """
import sys

class Refuse:
    names = {"torch", "torchgen", "functorch", "numpy", "PIL", "pyarrow", "safetensors"}
    # What torch itself requires, but fsspec, which it does without.
    names |= {"sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "typing_extensions", "packaging", "triton"}
    names |= {"gan_core", "tests", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from tests.gpu.__main__ import main
for arguments in %r:
    main([*arguments, "--worker", "%f", "%f"])
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"ray", "mlflow", "prefect", "dvc", "pandas", "fsspec", "psutil", "yaml", "tqdm", "pipelines"}))
"""


def test_the_parts_need_no_more_than_torch_numpy_pillow_pyarrow_and_safetensors(
    tmp_path: Path, small_pack: Path
) -> None:
    common = ["--small", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--pack", str(small_pack)]
    calls = [["correct", "--only", "dcgan resume"], ["speed", "--only", "none"], ["scale", "--only", "none"]]
    calls += [["train", "dcgan"], ["translate", "pix2pix"]]
    script = ONLY_THESE % ([[*call, *common] for call in calls], time.time(), time.time() + 300)
    done = subprocess.run([sys.executable, "-c", script], cwd=command.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for part in ("correct", "train-dcgan", "translate-pix2pix"):
        record = Record(tmp_path / "out" / part / "rows.json")
        assert not failed(record), table(record)


def test_a_card_and_a_processor_augment_by_the_same_numbers() -> None:
    # The meta device stands in for a card: it has no generator of its own.
    with correct.drawn_on_processor():
        drawn = randomness.uniform((2, 3), WorkerSlice(), torch.device("meta"), "key")
    assert (drawn.device.type, drawn.shape) == ("meta", (2, 3))
    with correct.drawn_on_processor():
        same = randomness.uniform((2, 3), WorkerSlice(), torch.device("cpu"), "key")
    assert torch.equal(same, randomness.uniform((2, 3), WorkerSlice(), torch.device("cpu"), "key"))


def test_compiled_calls_that_are_no_cuda_graphs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {"inductor": {"cudagraph_skips": 5}}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", SimpleNamespace(counters=counters))  # type: ignore[arg-type]

    def gradients(trainer: dict[str, object]) -> dict[str, torch.Tensor]:
        counters["inductor"]["cudagraph_skips"] += bool(trainer.get("compile"))
        return {"discriminator": torch.ones(1)}

    monkeypatch.setattr(correct, "gradients", gradients)
    bench = SimpleNamespace(
        name="dcgan", small=True, device=torch.device("cuda"), trainer=lambda *_, **settings: settings
    )
    notes = {row.name: row.note for row in correct._gradients(bench)}  # type: ignore[arg-type]
    assert "CUDA graphs;" not in notes["bf16 against fp32"]
    assert "; 4 of torch's graphs were not CUDA graphs" in notes["replayed CUDA graphs against eager"]
    assert "; 3 of torch's graphs" in notes["replayed CUDA graphs in bf16 against eager fp32"]


def test_a_step_that_could_not_be_captured_is_not_one_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(correct, "cycle_of", lambda _: 1)
    for name in ("run_steps", "run_until_captured"):
        monkeypatch.setattr(correct, name, lambda *_: None)
    bench = SimpleNamespace(device=torch.device("cuda"), trainer=lambda *_, **settings: SimpleNamespace(_captured=None))
    states = {row.name.split()[1]: row.state for row in correct._waiting(bench)}  # type: ignore[arg-type]
    assert states == {"eager": "ok", "compiled": "ok", "captured": "miss"}


# -- the pack --------------------------------------------------------------------------------------------------------


def test_a_filled_pack_stays_and_a_damaged_piece_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(pack.fill(tmp_path, small=True))
    assert first == [
        f"drawn: 3 files, {sum(e['bytes'] for e in read_json(tmp_path / pack.LIST).values()) / 2**20:.1f} MiB"
    ]
    assert "already there" in next(pack.fill(tmp_path, small=True))
    opened = pack.Pack(tmp_path, tmp_path / "scratch")
    assert opened.lacks("drawn") == ""
    assert opened.lacks("cifar10").startswith(f"cifar10 is not in {tmp_path}")
    assert opened.dataset("drawn").info.splits == pack.SMALL
    piece = next(tmp_path.glob("drawn/train-*.parquet"))
    sums = sha256_file(piece)
    piece.write_bytes(b"damaged")
    assert "is missing or incomplete" in opened.lacks("drawn")
    assert "already there" not in next(pack.fill(tmp_path, small=True))
    assert sha256_file(piece) == sums
    monkeypatch.setattr(pack, "DRAWN", {"train": 60, "test": 20})
    assert "already there" not in next(pack.fill(tmp_path)), "the whole form does not go on with the small one"
    assert opened.dataset("drawn").info.splits == pack.DRAWN


def test_a_large_file_is_split_and_joined(tmp_path: Path) -> None:
    large = tmp_path / "weights.pt"
    large.write_bytes(bytes(range(256)) * 10)
    parts = pack.split_file(large, tmp_path / "parts", size=1000)
    assert [part.stat().st_size for part in parts] == [1000, 1000, 560]
    pack.join_file(tmp_path / "parts", tmp_path / "joined" / large.name, sha256_file(large))
    assert (tmp_path / "joined" / large.name).read_bytes() == large.read_bytes()
    parts[1].unlink()
    with pytest.raises(DataError, match="incomplete or damaged"):
        pack.join_file(tmp_path / "parts", tmp_path / "again" / large.name, sha256_file(large))
    assert not (tmp_path / "again" / large.name).exists()


def test_missing_data_fails_a_call_and_a_pattern_without_items_is_no_success(
    tmp_path: Path, small_pack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = options(tmp_path, tmp_path / "nothing", "train", "dcgan")
    measure(lacking)
    assert [row.state for row in rows_of(lacking).values()] == ["missing data"]
    assert command.report(lacking) == 1
    none = options(tmp_path, small_pack, "correct", only="dgcan*")
    measure(none)
    assert command.report(none) == 2
    assert "No item of correct matches --only dgcan*" in capsys.readouterr().err
    assert command.main(["all", "--list", "--only", "dgcan*"]) == 2


@pytest.mark.parametrize("minutes", ["0.2", "nan", "inf", "-1"])
def test_minutes_in_which_nothing_could_be_measured_are_refused(
    minutes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.parse(["speed", "--minutes", minutes])
    assert "15 seconds of them are for the end" in capsys.readouterr().err


def test_an_item_that_takes_all_the_time_does_not_keep_the_others_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def item(name: str) -> Item:
        def rows() -> list[Row]:
            begun.append(name)
            return [at_most("x", 1, 2)]

        return Item(name=name, rows=rows, seconds=0)

    monkeypatch.setattr("tests.gpu.worker.items_of", lambda plan: [item("a"), item("b")])
    plan = options(tmp_path, tmp_path, "speed")
    measure(plan)
    Record(plan.record).write("a", [Row(name="a", state="no time")])
    monkeypatch.setattr("tests.gpu.worker.items_of", lambda plan: [item("a"), item("b"), item("c")])
    begun.clear()
    measure(dataclasses.replace(plan, since=time.time()))
    assert begun == ["c", "a"]
    assert Record(plan.record).names == ["a", "b", "c"]


def test_the_time_of_the_host_is_that_of_single_steps_on_an_idle_card(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(speed, "wait", lambda device: done.append("wait"))
    monkeypatch.setattr(speed, "run_steps", lambda trainer, count: done.append(f"{count} step"))
    assert speed._host_seconds(SimpleNamespace(device=None), 2) >= 0  # type: ignore[arg-type]
    assert done == ["wait", "1 step", "wait", "1 step", "wait"]


def test_the_last_pictures_are_drawn_with_statistics_of_the_last_weights(
    tmp_path: Path, small_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("update_statistics", "preview"):
        own = getattr(AveragedGenerator, name)

        def noted(self: object, *given: Any, name: str = name, own: Any = own) -> Any:
            calls.append(name)
            return own(self, *given)

        monkeypatch.setattr(AveragedGenerator, name, noted)
    monkeypatch.setattr(
        "tests.gpu.quality.SAVE_SECONDS", {"cpu": 10_000.0, "cuda": 10_000.0}
    )  # one step: no grid after it
    measure(options(tmp_path, small_pack, "train", "dcgan"))
    assert calls == ["update_statistics", "preview"] * 2


# -- the supervisor and the table ------------------------------------------------------------------------------------


def test_an_item_that_ends_its_process_is_an_error_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = options(tmp_path, tmp_path, "correct")
    calls = []

    def worker(plan: Options) -> int:
        record = Record(plan.record)
        record.begin({}, "", ["a", "b"])
        calls.append(record.tried_since(plan.since))
        if len(calls) == 1:
            (plan.work / RUNNING).write_text(json.dumps("a"))
            return -11
        record.write("b", [at_most("b", 1, 2)])
        return 0

    monkeypatch.setattr(command, "_run_worker", worker)
    command.supervise(plan)
    assert calls == [[], ["a"]]
    assert {name: row.state for name, row in rows_of(plan).items()} == {"a": "error", "b": "ok"}
    assert command.report(plan) == 1


def test_what_a_call_has_no_time_for_is_left_to_the_next(tmp_path: Path, small_pack: Path) -> None:
    plan = dataclasses.replace(options(tmp_path, small_pack, "correct", None, "optimiser"), deadline=time.time() + 1)
    measure(plan)
    assert summary(Record(plan.record)) == "1 of 1 items left for the next call"
    measure(dataclasses.replace(plan, deadline=time.time() + 60))
    assert summary(Record(plan.record)) == "1 ok"


def test_the_table_names_the_machine_and_shows_published_figures_beside_ours(tmp_path: Path) -> None:
    record = Record(tmp_path / "rows.json")
    record.begin({"card": "H100", "driver": "1.2"}, "", ["a"])
    record.write("a", [at_least("images/s", 12345.6, 40000, published="147 (A100)"), Row(name="x", state="needs CUDA")])
    lines = table(record).splitlines()
    assert lines[0] == "card H100, driver 1.2"
    assert lines[3].split() == ["images/s", "12,346", ">=", "40000", "147", "(A100)", "miss"]
    assert summary(record) == "1 miss, 1 needs CUDA"
    assert failed(record)
    record.begin({"card": "H100", "driver": "1.3"}, "", ["a"])
    assert not record.rows("a"), "rows of another machine are not kept"


def test_a_file_above_15_mib_is_found(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    assert too_large(tmp_path) == [tmp_path / "large"]


def test_a_gradient_that_is_not_a_number_misses_whatever_its_place() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    for found in ({"d": good, "g": bad}, {"d": bad, "g": good}):
        error, _ = correct.relative(found, {"d": good, "g": good})
        assert at_most("gradients", error, 0.4).state == "miss"


def test_a_run_goes_on_only_as_what_it_was_begun(tmp_path: Path, small_pack: Path) -> None:
    plan = options(tmp_path, small_pack, "train", "dcgan")
    cpu = torch.device("cpu")
    place = quality.place_of_run(plan, cpu)
    assert place != quality.place_of_run(dataclasses.replace(plan, small=False), cpu)
    data = pack.Pack(small_pack, tmp_path).dataset("drawn")

    def settings(kimg: float | None) -> object:
        return quality._settings("dcgan", data, cpu, dataclasses.replace(plan, kimg=kimg), place)

    begun = settings(3.0)
    assert settings(3.0) == settings(None) == begun
    with pytest.raises(SettingsError, match="was begun with 3. Leave --kimg out"):
        settings(4.0)


def test_rows_are_of_all_code_that_the_parts_import() -> None:
    files, used = set(code_files()), set()
    new = {path for path in files if path.parent.name == "gpu" and path.name != Path(__file__).name}
    while new:
        used |= new
        names = {
            name for path in new for name in re.findall(r"^from (tests\.[\w.]+) import", path.read_text(), re.MULTILINE)
        }
        new = {command.ROOT / Path(*name.split(".")).with_suffix(".py") for name in names} - used
        new = {path for path in new if path.is_file()}
    assert command.ROOT / "tests" / "datasets.py" in used
    assert used <= files


def test_only_cards_are_compared_with_what_their_maker_states_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def stated(name: str) -> tuple[float, float] | None:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return speed._stated(torch.device("cuda"))

    assert stated("NVIDIA H100 80GB HBM3") == (989e12, 3.35e12)
    assert stated("NVIDIA A100-SXM4-80GB") == (312e12, 2.039e12)
    assert [stated(f"NVIDIA {name}") for name in ("H100 PCIe", "GH200 480GB", "H100 80GB HBM3 MIG 1g.10gb")] == [
        None
    ] * 3


def test_micro_batches_are_chosen_for_a_compiled_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[object] = []

    def noted(*arguments: Any, given: dict[str, object], **more: Any) -> list[Choice]:
        known.append(given["train.compile"])
        return choose(*arguments, given=given, **more)

    monkeypatch.setattr("tests.bench.trainers.choose", noted)
    monkeypatch.setattr(quality, "choose", noted)
    data = made_up_data("dcgan", tmp_path, SIDE, 16)
    device = torch.device("cpu")
    auto_trainer("dcgan", data, tmp_path / "run", device, batch=4, model=TINY["dcgan"], compile=False)
    plan = options(tmp_path, tmp_path, "train", "dcgan")
    assert not quality._settings("dcgan", data, device, plan, tmp_path / "work")[1].compile
    assert known == [False] * 3


def test_a_target_with_a_time_is_met_only_within_it() -> None:
    early, late = {"fid": 5.9, "minutes": 50.0}, {"fid": 5.0, "minutes": 90.0}
    assert quality.judge("r3gan", 4.0, 170.0, [early, late]) == ("ok", "; first below 6 after 50 minutes")
    assert quality.judge("r3gan", 4.0, 170.0, [late]) == ("miss", "; first below 6 after 90 minutes")
    assert quality.judge("r3gan", 6.5, 50.0, [early]) == ("miss", "")
    assert quality.judge("biggan", 11.0, 10_000.0, [])[0] == "ok"
    assert quality.judge("cyclegan", 11.0, 10.0, []) == ("figure", "")


def test_the_time_of_a_call_that_is_ended_counts_up_to_its_last_checkpoint(tmp_path: Path) -> None:
    spent = tmp_path / "seconds.json"
    ended = quality.Notebook(tmp_path, spent)
    ended._began -= 100
    ended.checkpoint(None, 10)
    following = quality.Notebook(tmp_path, spent)
    following.checkpoint(None, 20)
    assert 100 < read_json(spent) < 160


def test_a_part_that_cannot_run_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []

    def part(arguments: list[str]) -> int:
        called.append(arguments[0])
        if arguments[0] == "speed":
            raise GantryError("The process that measures ended with status 1.")
        return 0

    monkeypatch.setattr(command, "main", part)
    assert command.run_all(command.parse(["all"])) == 1
    assert set(called) == {"correct", "speed", "scale", "train", "translate"}
    assert capsys.readouterr().err == "error: The process that measures ended with status 1.\n"


def test_all_parts_get_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["all", "--list", "--only", "dcgan*"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert {line.split()[0] for line in lines if line and not line.startswith("==")} == {"dcgan"}
    assert len([line for line in lines if line.startswith("== train")]) > 3
