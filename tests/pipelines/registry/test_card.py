"""The model card and the version description show class names as plain text, whatever they contain."""

import dataclasses
import html
import json
import re
import subprocess

import pytest
from markdown_it import MarkdownIt

from gan_core.families import ImageShape, build_family, family_config
from gan_core.inference.generator import Generator, describe_generator
from gan_core.metrics.protocol import Figure
from pipelines.registry.card import model_card, version_description
from tests.gan_core.families.translations import small
from tests.pipelines.registry.conftest import PROTOCOL

HOSTILE = ["<script>alert(1)</script>", "![](http://example.org/a.png)", '# it\'s | "quoted" `x` $(touch x)']
READER = MarkdownIt("commonmark", {"html": True}).enable("table")


def card(generator: Generator, direction: str = "") -> str:
    figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    figure["protocol"]["direction"] = direction
    return model_card(
        name="pets",
        generator=generator,
        figure=figure,
        figures=[figure, figure],
        tags={"gantry.data": HOSTILE[0], "gantry.git_reason": "fatal: `x`\n# heading"},
        files=["samples.png", "<b>.png"],
    )


def tags(markdown: str) -> set[str]:
    return set(re.findall(r"<(\w+)", READER.render(markdown)))


@pytest.fixture
def drawing() -> Generator:
    """A class-conditional generator with hostile class names."""
    shape = ImageShape(channels=1, height=16, width=16, classes=3)
    family = build_family("cgan", family_config("cgan", {"width": 4, "latent": 8}), shape)
    return Generator(family, describe_generator(family, {"classes": HOSTILE}), "f" * 64)


@pytest.fixture
def translating() -> Generator:
    """A generator that translates between domains with hostile names."""
    family = small("stargan")
    return Generator(family, describe_generator(family, {"classes": HOSTILE}), "f" * 64)


def test_every_figure_has_its_protocol_and_says_which_way_is_better(drawing: Generator) -> None:
    fid = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    few = dataclasses.replace(PROTOCOL, metric="recall", fake_count=300, extractor="")
    recall = Figure(name="recall", value=0.5, protocol=few, generator_digest="f" * 64, higher_is_better=True).as_dict()
    kid = {**fid, "name": "kid", "protocol": {**fid["protocol"], "metric": "kid"}}
    text = model_card(
        name="pets", generator=drawing, figure=recall, figures=[fid, kid, recall], tags={}, files=["samples.png"]
    )
    assert "**RECALL 0.5000** (higher is better)" in text
    shown = re.findall(r"^\| (fid|kid|recall) .*\| (\w+) \| (\d) \|$", text, re.MULTILINE)
    assert shown == [("fid", "lower", "2"), ("kid", "lower", "2"), ("recall", "higher", "1")]
    assert f"- Protocol 2 is protocol 1 with extractor `{'e' * 64}`, fake_count `1000`." in text


def test_class_names_are_shown_as_plain_text(drawing: Generator, translating: Generator) -> None:
    for generator in (drawing, translating):
        text = card(generator, f"{HOSTILE[0]} -> {HOSTILE[1]}")
        rendered = READER.render(text)
        allowed = {"h1", "h2", "p", "img", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "pre"}
        assert tags(text) <= allowed
        pictures = re.findall(r'<img src="(.*?)"', rendered)
        assert pictures == ["samples.png", "%3Cb%3E.png"]
        assert re.findall(r"<h1>(.*?)</h1>", rendered) == ["pets"]
        # All rows of a table have the same number of cells: no name broke out of its cell.
        for table in re.findall(r"<table>.*?</table>", rendered, re.DOTALL):
            rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
            assert len({len(re.findall(r"<t[hd]", row)) for row in rows}) == 1


def test_the_version_description_shows_names_as_plain_text(translating: Generator) -> None:
    figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    figure["protocol"]["direction"] = figure["stamp"] = f"{HOSTILE[0]} -> {HOSTILE[1]}"
    note = version_description(
        name="pets",
        generator=translating,
        figure=figure,
        figures=[figure],
        tags={"gantry.data": HOSTILE[1]},
        files=["samples.png", "<b>.png"],
        model_id="m-1",
        notes={"intended_use": HOSTILE[0], "data_licence": HOSTILE[2]},
    )
    assert tags(note) <= {"p", "img", "table", "thead", "tbody", "tr", "th", "td", "code", "a"}
    at = "ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files?artifact_file_path="
    assert re.findall(r'(?:src|href)="(.*?)"', READER.render(note)) == [
        f"{at}{file}"
        for file in ("samples.png", "%3Cb%3E.png", "README.md")  # the second after the figures
    ]


def test_the_version_description_leaves_out_what_does_not_fit_beside_the_gates(drawing: Generator) -> None:
    figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    many = [{**figure, "name": f"figure {number}"} for number in range(40)]
    note = version_description(
        name="pets",
        generator=drawing,
        figure=figure,
        figures=many,
        tags={f"gantry.{number}": "x" * 60 for number in range(60)},
        files=["samples.png"],
        model_id="m-1",
    )
    assert len(note) <= 3500
    assert "| figure 11 |" in note
    assert "28 more figures are in the card." in note
    assert "source" not in note
    assert note.endswith("among the model's files.")


@pytest.mark.parametrize("name", [HOSTILE[2], "it's", "a b", "größer", "`<script>`", "a|b"])
def test_the_commands_in_the_card_pass_the_exact_name(translating: Generator, name: str, tmp_path) -> None:
    translating.info["classes"] = [name, name, name]
    (tmp_path / "picture.png").write_bytes(b"x")
    (sent,) = re.findall(r"^(echo '.*?) \|$", card(translating), re.MULTILINE)
    done = subprocess.run(["bash", "-c", sent], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout)["dataframe_records"][0]["target"] == name
    (command,) = re.findall(r"<code>gantry translate .*? --target (.*)</code>", READER.render(card(translating)))
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {html.unescape(command)}"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == name
    assert "script" not in tags(card(translating))
    assert [*tmp_path.iterdir()] == [tmp_path / "picture.png"]


def test_the_example_uses_the_number_of_a_domain_whose_name_cannot_be_typed(translating: Generator) -> None:
    translating.info["classes"] = ["a\n```\n<script>", "b\n```\n<script>", "c\n```\n<script>"]
    assert '"target": "1"' in card(translating)
    assert "script" not in tags(card(translating))


def test_the_description_shows_the_verdicts_of_the_last_promotion_within_the_limit():
    from pipelines.registry.card import MAX_DESCRIPTION, describe_gates
    from pipelines.registry.ledger import Move

    move = Move(
        kind="promote",
        version="1",
        previous=None,
        at="2026-01-01",
        by="ann",
        reason="",
        gates=("recall (x: 1): passed",),
    )
    first = describe_gates("fid 3" + "x" * 6000, move)
    assert len(first) == MAX_DESCRIPTION
    again = describe_gates("fid 3\n\nProtocol", move)
    assert describe_gates(again, move) == again
    assert again.startswith("fid 3\n\nProtocol\n\n## Gates")
    assert again.endswith("- recall (x: 1): passed")
    long = dataclasses.replace(move, gates=(f"noise: {'x' * 300} overlap", "recall: passed"))
    assert describe_gates("fid 3", long).endswith("x overlap\n- recall: passed")
    noted = describe_gates(f"{again}\n\nShown to *Ann*.", long)
    assert noted.startswith("fid 3\n\nProtocol\n\nShown to *Ann*.\n\n## Gates")
    assert noted.count("## Gates") == 1


def test_the_card_has_the_whole_of_what_a_person_wrote(drawing: Generator) -> None:
    figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    notes = {"intended_use": f"{'To teach. ' * 50}Not to deceive.", "data_licence": f"{'CC-BY. ' * 60}Name Ann."}
    card = model_card(name="pets", generator=drawing, figure=figure, figures=[], tags={}, files=[], notes=notes)
    assert "Not to deceive." in card
    assert "Name Ann." in card


def test_a_version_is_not_tried_out_by_the_name_of_the_champion(drawing: Generator) -> None:
    """It is a challenger when it gets its description, and the champion is another version."""
    figure = Figure(name="fid", value=20.0, protocol=PROTOCOL, generator_digest="f" * 64).as_dict()
    told = {"name": "my pets", "generator": drawing, "figure": figure, "figures": [], "tags": {}, "files": []}
    assert "`gantry sample 'my pets/N' --n 16" in version_description(**told, model_id="m-1")
    assert "write `my pets/N` with its number" in model_card(**told)
    assert "mlflow models serve -m 'models:/my pets@champion' --env-manager" in model_card(**told)
