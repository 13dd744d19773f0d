"""The pull steps of a deployment, with a real git repository."""

import logging
import os
import pty
import re
import select
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gan_core.errors import StageError
from pipelines.flow.flow import record
from pipelines.flow.pull import CHECKOUT_VARIABLE, STALE_SECONDS, at_origin, clone, clone_folder, local_checkout
from pipelines.flow.workspace import check_fetched, find_commit, run_dvc, worktree_workspace
from pipelines.runtime.checkout import Checkout
from tests.pipelines.deployed import push_project
from tests.pipelines.toy import environment, run


@pytest.fixture
def remote(tmp_path):
    """A repository with a branch main of one commit."""
    root = tmp_path / "toy"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    _commit(root, "one")
    return root


def _commit(root, text):
    (root / "sub").mkdir(exist_ok=True)
    (root / "sub" / "text").write_text(text)
    run("git", "add", "-A", cwd=root)
    run("git", "commit", "-qm", text, cwd=root)
    return run("git", "rev-parse", "HEAD", cwd=root).stdout.strip()


def test_the_clone_is_kept_and_follows_the_branches_of_its_repository(remote, tmp_path):
    address = remote.as_uri()
    folder = clone_folder(address)
    assert clone(address, "main") == {"directory": str(folder)}
    assert (folder / "sub" / "text").read_text() == "one"
    (folder / "var").mkdir()
    second = _commit(remote, "two")
    run("git", "branch", "other", cwd=remote)
    assert clone(address, "main", "sub") == {"directory": str(folder / "sub")}
    assert (folder / "sub" / "text").read_text() == "two"
    assert (folder / "var").is_dir(), "the work in progress of an earlier run"
    assert find_commit(Checkout.at(folder), "other", from_client=True) == second
    run("git", "branch", "-D", "other", cwd=remote)
    clone(address, "main")
    with pytest.raises(StageError, match=r"Revision 'other' is not in file://.*Push it \(git push origin other\)"):
        check_fetched(Checkout.at(folder), "other", address)


def test_a_clone_whose_first_git_init_was_killed_is_completed(remote):
    (clone_folder(remote.as_uri()) / ".git").mkdir(parents=True)
    clone(remote.as_uri(), "main")
    assert (clone_folder(remote.as_uri()) / "sub" / "text").read_text() == "one"


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "config.lock", "refs/heads/main.lock"])
def test_the_locks_of_a_git_that_was_killed_do_not_stop_later_runs(remote, name):
    clone(remote.as_uri(), "main")
    _commit(remote, "two")
    lock = clone_folder(remote.as_uri()) / ".git" / name
    lock.touch()
    with pytest.raises(StageError, match=re.escape(name.rpartition("/")[2].removesuffix(".lock"))):
        clone(remote.as_uri(), "main")
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(lock, (long_ago, long_ago))
    clone(remote.as_uri(), "main")
    assert (clone_folder(remote.as_uri()) / "sub" / "text").read_text() == "two"


def test_a_host_that_reaches_the_repository_by_another_address_knows_its_clone(remote, tmp_path, monkeypatch):
    """git config url.BASE.insteadOf, for a mirror or with a token of the host."""
    from pipelines.flow import deployed

    (tmp_path / "gitconfig").write_text(f'[url "{remote.as_uri()}"]\n  insteadOf = https://host/toy.git\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.chdir(clone("https://host/toy.git", "main")["directory"])
    monkeypatch.setattr(deployed, "run_flow", lambda checkout, served, *_: served.origin)
    assert deployed.pipeline.fn("main") == "https://host/toy.git"


def test_a_rewritten_branch_replaces_that_of_the_clone(remote):
    clone(remote.as_uri(), "main")
    run("git", "commit", "-q", "--amend", "-m", "another", cwd=remote)
    clone(remote.as_uri(), "main")
    subject = run("git", "log", "-1", "--format=%s", "main", cwd=clone_folder(remote.as_uri())).stdout
    assert subject.strip() == "another"


def test_a_clone_of_a_revision_that_is_gone_shows_the_head_of_the_repository(remote):
    clone(remote.as_uri(), "gone")
    assert (clone_folder(remote.as_uri()) / "sub" / "text").read_text() == "one"


def test_head_is_that_of_the_repository_at_each_run(remote):
    address = remote.as_uri()
    first = run("git", "rev-parse", "HEAD", cwd=remote).stdout.strip()
    clone(address, "HEAD")
    second = _commit(remote, "two")
    checkout = Checkout.at(clone(address, "HEAD")["directory"])
    assert (checkout.root / "sub" / "text").read_text() == "two"
    run("git", "branch", "other", first, cwd=remote)
    clone(address, "other")  # another deployment of the same repository
    assert find_commit(checkout, at_origin("HEAD"), from_client=True) == second
    assert find_commit(checkout, at_origin("HEAD~1"), from_client=True) == first
    assert at_origin("HEAD-of-mine") == "HEAD-of-mine"


def test_a_revision_that_is_gone_from_a_repository_without_a_head_is_an_error(remote):
    run("git", "symbolic-ref", "HEAD", "refs/heads/unborn", cwd=remote)
    clone(remote.as_uri(), "main")
    with pytest.raises(StageError, match=r"has no revision 'gone'.*git push origin gone"):
        clone(remote.as_uri(), "gone")


def test_a_repository_that_cannot_be_read_is_an_error_that_names_the_host(tmp_path):
    with pytest.raises(StageError, match=r"Host .* cannot fetch file://.*nothing.*ssh key or git credential helper"):
        clone((tmp_path / "nothing").as_uri(), "main")


def test_a_repository_that_asks_for_a_password_is_an_error_even_on_a_terminal(tmp_path):
    class AskForPassword(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="toy"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), AskForPassword) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = f"from pipelines.flow.pull import clone; clone('http://127.0.0.1:{server.server_port}/toy.git', 'main')"
        child, terminal = pty.fork()
        if child == 0:
            os.execve(sys.executable, [sys.executable, "-c", code], environment(GANTRY_CACHE_DIR=str(tmp_path)))
        said = b""
        try:
            while select.select([terminal], [], [], 30)[0]:
                said += os.read(terminal, 4096)
        except OSError:  # the child has ended
            pass
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(terminal)
            server.shutdown()
    assert b"StageError: Host" in said, said
    assert b"prompts disabled" in said


def test_the_name_of_a_clone_is_that_of_the_repository():
    """A colon in it would end the entry of PYTHONPATH by which stages find the code of their commit."""
    for address in ("git@host:toy.git", "ssh://git@host/group/toy", "/srv/toy.git/", "https://host/toy.git"):
        assert re.fullmatch(r"toy-[0-9a-f]{12}", clone_folder(address).name)


def test_a_folder_that_the_repository_lacks_is_an_error(remote):
    with pytest.raises(StageError, match="has no folder missing at revision main"):
        clone(remote.as_uri(), "main", "missing")


def test_a_worker_of_prefect_knows_no_local_checkout(monkeypatch, flow_project):
    monkeypatch.delenv(CHECKOUT_VARIABLE, raising=False)
    with pytest.raises(StageError, match="Start gantry worker in the checkout"):
        local_checkout()
    monkeypatch.setenv(CHECKOUT_VARIABLE, str(flow_project))
    assert local_checkout() == {"directory": str(flow_project)}


def test_a_second_host_takes_the_results_of_the_first_from_the_remote(flow_project, tmp_path, monkeypatch):
    address = (tmp_path / "remote" / "toy.git").as_uri()
    push_project(flow_project, tmp_path / "remote" / "toy.git", data="raw")
    targets = ("raw.dvc", "first", "second")

    def work(host: str) -> tuple[str, str]:
        """Run the stages as the flow does, in a clone that only this host has; returns DVC's messages and the result."""
        monkeypatch.setenv("GANTRY_CACHE_DIR", str(tmp_path / host))
        checkout = Checkout.at(clone(address, "main")["directory"])
        place = worktree_workspace(
            checkout, revision="main", overrides={}, name=f"on-{host}", from_client=True, origin=address
        )
        with place as workspace:
            told = [
                run_dvc(workspace.checkout, workspace.environment, "repro", "--pull", "--single-item", target)
                for target in targets
            ]
            record.fn(workspace, targets)
            return "\n".join(told), (workspace.checkout.root / "b").read_text()

    monkeypatch.setattr("pipelines.flow.flow.get_run_logger", lambda: logging.getLogger("test"))
    told, result = work("b")
    assert "making b in run" in told
    refs = run("git", "for-each-ref", "refs/exps", cwd=tmp_path / "remote" / "toy.git").stdout
    assert refs.rstrip().endswith("/on-b"), "the experiment is in the repository"
    told, again = work("c")
    assert "making" not in told
    assert told.count("is cached - skipping run") == 2
    assert again == result
