"""An error names the damaged DVC file, the line and the remedy."""

import pytest

from gan_core.errors import GantryError
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.key import read_stage


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("dvc.yaml", b"stages:\n  train:\n    cmd: [\n", r"dvc.yaml, line \d.*truncated.*git checkout dvc.yaml"),
        (
            "dvc.yaml",
            b"stages: {a: {cmd: !!python/name:os.x y}}\n",
            r"dvc.yaml, line 1.*python/name:os.x.*git checkout",
        ),
        ("dvc.yaml", b"stages: 3\n", r"dvc.yaml, line 1: stages: expected.*git checkout dvc.yaml"),
        ("dvc.yaml", b"\xff\xfe", r"dvc.yaml is not UTF-8.*git checkout dvc.yaml"),
        ("dvc.yaml", b"[" * 50_000, r"dvc.yaml, line 1: .* nested too deeply.*git checkout dvc.yaml"),
        ("dvc.lock", b"{", r"dvc.lock, line \d.*truncated.*or remove it to run all stages again"),
        ("dvc.lock", b"schema: 9\n", r"dvc.lock, line 1: schema.*or remove it to run all stages again"),
        ("dvc.lock", b"- " * 50_000, r"dvc.lock, line 1: .* nested too deeply"),
        (".dvc/config", b"[core\n", r"\.dvc/config: DVC cannot read.*at line 1\. Correct it, or restore \.dvc/config"),
        (".dvc/config", b"[core]\nautostage = maybe\n", r"\.dvc/config: DVC cannot read.*true or false.*autostage"),
        (".dvc/config", b"[remote]\nx = 1\n", r"\.dvc/config: DVC cannot read.*Correct it, or restore"),
        (
            ".dvc/config",
            b"['remote \"a\"']\nurl = s3://b/%(x)s\n",
            r"\.dvc/config: DVC cannot read.*Correct it, or restore",
        ),
        (".dvc/config.local", b"[core]\nanaly", r"\.dvc/config\.local: DVC cannot read.*at line 2\. Correct it\.$"),
        ("params.yaml", b"steps: 2024-06-01\n", r"params.yaml: line 1: YAML reads 2024-06-01 as a date"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_damaged_file_is_named_with_the_place_and_the_remedy(project, file, content, message):
    (project / file).write_bytes(content)
    with pytest.raises(GantryError, match=message) as error:
        read_stage("slow", Checkout.at(project))
    assert len(str(error.value)) < 700
