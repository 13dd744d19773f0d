"""``gantry play``: the link for the browser, and errors before anything is loaded. tests/pipelines/play tests the page."""

import stat
from contextlib import ExitStack
from pathlib import Path

from click.testing import CliRunner

from pipelines.commands.play import _private_link, play


def test_only_the_owner_can_read_the_file_that_leads_the_browser_to_the_address() -> None:
    with ExitStack() as stack:
        path = _private_link("http://127.0.0.1:5/#token", stack)
        assert "url=http://127.0.0.1:5/#token" in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.parent.exists()


def test_a_folder_without_a_generator_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(play, [str(tmp_path)])
    assert "has no exported generator" in str(done.exception)
