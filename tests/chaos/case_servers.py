"""The MLflow server dies, hangs or is slow; promotion, rollback and registration are killed at every call to it."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gan_core.files import read_json
from pipelines.registry.contents import CHALLENGER
from pipelines.registry.ledger import Move
from pipelines.registry.promote import CHAMPION, load_ledger, promote, rollback
from pipelines.registry.register import register_generator
from pipelines.tracking.store import connect
from tests.chaos.case import Case, Suite, choose
from tests.chaos.case_stages import sync_all
from tests.chaos.checks import check_logs_sent, check_metrics, check_one_version, check_same, check_whole, make_old
from tests.chaos.inject import CALLS, Point, read_points
from tests.chaos.place import Place, orphans
from tests.chaos.servers import MlflowServer, Proxy, mlflow_server

URI = "GANTRY_TRACKING_URI"


def cases() -> list[Case]:
    """Faults of the tracking server and of its clients."""
    return [
        Case(name="mlflow-killed", run=partial(with_server, fault=_killed)),
        Case(name="mlflow-paused", run=partial(with_server, fault=_paused)),
        Case(name="mlflow-slow", run=partial(with_server, fault=_slow)),
        Case(name="mlflow-loses-answers", run=partial(with_server, fault=_losing), small=False),
        Case(name="register-killed-at-a-call", run=registering, seconds=400),
        Case(name="promote-killed-at-each-call", run=promoting, seconds=600),
    ]


def with_server(
    suite: Suite, numbers: random.Random, *, fault: Callable[[Suite, random.Random, MlflowServer, Proxy], None]
) -> None:
    """Train during a fault of the server: the stage succeeds, and later the server has each metric once."""
    with suite.baseline.before["train"].copy() as place, mlflow_server(place.scratch) as server:
        proxy = Proxy(server.uri)
        stage = place.begin_stage("train", **{URI: proxy.uri})
        curves = place.root / "var/work/train"
        deadline = time.monotonic() + 60
        rows = numbers.randint(0, 6)
        while sum(len(path.read_text().splitlines()) for path in curves.glob("*/curves.jsonl")) < rows:
            assert time.monotonic() < deadline, f"training does not begin:\n{stage.output()[-2000:]}"
            time.sleep(0.02)
        suite.notes.append(f"after {rows} rows")
        fault(suite, numbers, server, proxy)
        ended = stage.wait(180)
        assert ended.status == 0, f"training ended with {ended.status}:\n{ended.output[-2000:]}"
        assert "Traceback" not in ended.output, ended.output[-2000:]
        left = orphans(spared=[server.pid])
        assert not left, f"still running: {'; '.join(left)}"
        proxy.delay, proxy.lose = 0.0, False
        server.resume()
        if not server.runs():
            server.start()
        sent = place.call(partial(_sync, proxy.uri), seconds=180)
        assert sent.status == 0, f"gantry track sync failed:\n{sent.output[-2000:]}"
        check_same(place, "train", suite.baseline.results("train"))
        check_whole(place)
        check_metrics(place, server.uri)
        check_logs_sent(place)


def _sync(uri: str) -> None:
    import os

    os.environ[URI] = uri
    sync_all()


def _killed(suite: Suite, numbers: random.Random, server: MlflowServer, proxy: Proxy) -> None:
    server.kill()
    if numbers.random() < 0.5:
        suite.notes.append("back during the run")
        server.start()


def _paused(suite: Suite, numbers: random.Random, server: MlflowServer, proxy: Proxy) -> None:
    server.pause()
    time.sleep(5 if suite.small else 60)
    server.resume()


def _slow(suite: Suite, numbers: random.Random, server: MlflowServer, proxy: Proxy) -> None:
    proxy.delay = numbers.uniform(0.2, 1.0)


def _losing(suite: Suite, numbers: random.Random, server: MlflowServer, proxy: Proxy) -> None:
    proxy.lose = True
    time.sleep(numbers.uniform(1, 4))
    deadline = time.monotonic() + 60
    while not proxy.lost and time.monotonic() < deadline:  # the shipper may not have asked for anything yet
        time.sleep(0.05)
    proxy.lose = False
    suite.notes.append(f"{proxy.lost} answers lost")
    assert proxy.lost, "nothing was asked of the server while its answers were lost"


def registering(suite: Suite, numbers: random.Random) -> None:
    """Kill registration at one of its calls: after the next run, there is exactly one version."""
    with mlflow_server(suite.folder / f"server-{numbers.getrandbits(32):08x}") as server:
        before = suite.baseline.before["register"]
        with before.copy() as place:
            plan = place.plan()
            ended = place.stage("register", plan, **{URI: server.uri})
            assert ended.status == 0, f"the undisturbed registration ended with {ended.status}:\n{ended.output[-2000:]}"
            points = read_points(Path(plan.log))
    with before.copy() as place, mlflow_server(place.scratch) as server:
        for _ in range(5):
            point = choose(numbers, points, CALLS)
            first = place.stage("register", place.plan(point), **{URI: server.uri})
            if first.acted:
                break
        assert first.acted, f"{point} did not come"
        suite.notes.append(str(point))
        left = orphans(spared=[server.pid])
        assert not left, f"still running: {'; '.join(left)}"
        make_old(place)
        second = place.stage("register", **{URI: server.uri})
        assert second.status == 0, f"the run after it ended with {second.status}:\n{second.output[-2000:]}"
        sent = place.call(partial(_sync, server.uri))
        assert sent.status == 0, f"gantry track sync failed:\n{sent.output[-2000:]}"
        check_one_version(place, server.uri)
        check_whole(place)
        check_logs_sent(place)
        check_metrics(place, server.uri, "register")


def promoting(suite: Suite, numbers: random.Random) -> None:
    """Kill two promotions and a rollback at each call (at three calls each in the short form): ledger and alias agree before
    and after the next attempt.
    """
    with suite.baseline.after.copy() as place, mlflow_server(place.scratch, place.root / "var/mlflow.db") as server:
        _register_better(place, f"sqlite:///{place.root / 'var/mlflow.db'}")
        # Set up through the database: a server accepts only versions whose files it serves itself.
        database = f"sqlite:///{place.root / 'var/mlflow.db'}"
        champions = {"first promotion": (None, "1"), "promotion": ("1", "2"), "rollback": ("2", "1")}
        for kind, (_, after) in champions.items():
            count = place.plan()
            name = _fresh(database, f"{kind}-baseline".replace(" ", "-"), kind)
            ended = place.call(partial(_move, kind, name, server.uri), count)
            assert ended.status == 0, ended.output[-2000:]
            points = [point for point in read_points(Path(count.log)) if point.kind in CALLS]
            last = sorted((point for point in points if point.kind == "answer"), key=str)[-1:]
            moments = [*(point for point in points if point.kind == "send"), *last]
            for number, point in enumerate(numbers.sample(moments, 3) if suite.small else moments):
                name = _fresh(database, f"{kind}-{number}".replace(" ", "-"), kind)
                _kill_one(place, server.uri, kind, name, point, after)
        suite.notes.append("three calls of each" if suite.small else "every call")


def _kill_one(place: Place, uri: str, kind: str, name: str, point: Point, after: str) -> None:
    where = f"{kind} killed at {point}"
    before = _champion(uri, name)
    made = len(load_ledger(name, tracking_uri=uri).entries)
    ended = place.call(partial(_move, kind, name, uri), place.plan(point))
    assert ended.acted, f"{point} did not come"
    champion, moves = _champion(uri, name), load_ledger(name, tracking_uri=uri).moves()
    assert champion in (before, after), f"{where}: champion is {champion}"
    assert len(moves) - made in (0, 1), f"{where}: {len(moves) - made} entries"
    if champion == after:
        assert len(moves) == made + 1, f"{where}: moved without an entry"
    elif len(moves) > made:
        told = place.call(partial(_ledger, name, uri))
        line = next((line for line in reversed(told.output.splitlines()) if " -> " in line), told.output)
        assert "interrupted" in line, f"{where}: the ledger shows it as done: {line}"
    if champion != after:
        again = place.call(partial(_move, kind, name, uri))
        assert again.status == 0, f"{where}; tried again: {again.output[-1500:]}"
    assert _champion(uri, name) == after, f"{where}; tried again: champion is {_champion(uri, name)}"
    last: Move = load_ledger(name, tracking_uri=uri).moves()[-1]
    assert last.version == after, f"{where}; tried again: the ledger ends with {last.version}"


def _move(kind: str, name: str, uri: str) -> None:
    if kind == "rollback":
        rollback(name, tracking_uri=uri)
    else:
        promote(name, tracking_uri=uri, version="1" if kind == "first promotion" else "2")


def _ledger(name: str, uri: str) -> None:
    import os

    from pipelines.commands.promote import ledger

    os.environ[URI] = uri
    ledger([name], standalone_mode=False)


def _champion(uri: str, name: str) -> str | None:
    version = connect(uri).get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def _register_better(place: Place, uri: str) -> None:
    """Register version 2 of the model: the same generator with half the FID."""
    measured = read_json(place.root / "outputs/evaluate/metrics.json")["fid"]
    better = {**measured, "value": measured["value"] / 2, "low": None, "high": None}
    register_generator(
        generator_dir=place.root / "outputs/train/generator",
        name="digits",
        tracking_uri=uri,
        run_id=None,
        figure=better,
        figures=[better],
        tags={"gantry.stage_key": "chaos-better"},
        experiment="chaos",
    )


def _fresh(uri: str, name: str, kind: str) -> str:
    """A registered model with versions 1 and 2, in the state before a promotion or rollback (``kind``)."""
    client = connect(uri)
    client.create_registered_model(name)
    for number in ("1", "2"):
        version = client.get_model_version("digits", number)
        client.create_model_version(name, version.source, version.run_id, tags=version.tags)
    client.set_registered_model_alias(name, CHALLENGER, "2")
    if kind != "first promotion":
        promote(name, tracking_uri=uri, version="1")
    if kind == "rollback":
        promote(name, tracking_uri=uri, version="2")
    return name
