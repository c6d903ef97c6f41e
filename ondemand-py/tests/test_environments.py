"""Environments, on a server that makes them of processes."""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator, Optional, Tuple

import pytest
from conftest import eventually, new_home, serving

import ondemand
from ondemand import aio

TEMPLATE = """
x-ondemand:
  routes: [{ suffix: "", service: web, port: 3000, path: / }]
  database: { dump: production }
  back: { services: [web], repository: shop/back, branch: main }
  limits: { keep-days: 1, max-keep-days: 9, ready-timeout: 1m }
services:
  web:
    image: anything
    environment:
      ONDEMAND_REPOSITORY_URL: {{ back.url }}
      ONDEMAND_COMMIT: {{ back.commit }}
      ONDEMAND_BRANCH: {{ back.branch }}
      ONDEMAND_RUN: echo serving $$ONDEMAND_COMMIT; exec python3 -m http.server --bind $$HOST $$PORT
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory for templates and repositories."""
    home = new_home()
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def url(home: Path, dump: Path) -> Iterator[str]:
    """A server with a template, a repository and a dataset."""
    (home / "demo.yml").write_text(TEMPLATE)
    git("init", "--quiet", "--bare", "--initial-branch=main", str(home / "shop" / "back.git"))
    commit(home, "the first")
    options = ["--templates", str(home), "--accounts", "none", "--github-url", f"file://{home}"]
    with serving(*options) as (_, address):
        ondemand.connect(address, "a token").datasets.import_("production", dump)
        yield address


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True).stdout.strip()


def commit(home: Path, message: str) -> str:
    """Commit nothing to the branch, and return the commit."""
    at = ["-C", str(home / "shop" / "back.git"), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    tree = git(*at, "hash-object", "-w", "-t", "tree", "--stdin")
    made = git(*at, "commit-tree", "-m", message, tree)
    git(*at, "update-ref", "refs/heads/main", made)
    return made


@pytest.fixture
def od(url: str) -> Iterator[ondemand.Ondemand]:
    od = ondemand.connect(url, "a token")
    yield od
    eventually(
        lambda: is_clean(od), lambda: f"something is left: {od.environments.list()}, {od.databases.list()}", seconds=10
    )
    od.close()


def is_clean(od: ondemand.Ondemand) -> bool:
    return not od.environments.list() and not od.databases.list()


def visit(link: str) -> int:
    # Every name of localhost leads here, but not every resolver says so.
    host, _, port = link.split("//")[1].strip("/").partition(":")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_environment_from_its_creation_to_its_end(od: ondemand.Ondemand, home: Path) -> None:
    made = od.environments.create("demo", keep_days=2)
    assert (made.name, made.status, made.template) == ("demo", "ready", "demo")
    assert [visit(link) for link in made.links] == [200]
    assert timedelta(days=1, hours=23) < made.expires - datetime.now(timezone.utc) < timedelta(days=2)
    assert made.back is not None and made.back.branch == "main" and made.front is None
    assert [(service.name, service.state) for service in made.services] == [("web", "running")]
    assert od.environments.list() == ["demo"]
    # It has a database of its own.
    assert [database.dataset for database in od.databases.list()] == ["production"]
    assert f"serving {made.back.commit}" in " ".join(od.environments.logs("demo", service="web"))
    assert list(od.environments.logs("demo", tail=0)) == []

    extended = od.environments.extend("demo", 5)
    assert timedelta(days=2, hours=23) < extended.expires - made.expires < timedelta(days=3, hours=1)

    newest = commit(home, "the second")
    again = od.environments.redeploy("demo")
    assert again.back is not None and again.back.commit == newest != made.back.commit
    assert again.links == made.links and visit(made.links[0]) == 200

    od.environments.delete("demo")
    assert visit(made.links[0]) == 404 and is_clean(od)
    with pytest.raises(ondemand.NotFound):
        od.environments.get("demo")


def test_a_name_is_made_up(od: ondemand.Ondemand) -> None:
    made = od.environments.create()
    assert od.environments.list() == [made.name]
    od.environments.delete(made.name)


def test_a_plan_changes_nothing(od: ondemand.Ondemand) -> None:
    plan = od.environments.plan("demo")
    assert plan.name == "demo" and plan.dataset == "production" and "python3 -m http.server" in plan.compose
    assert is_clean(od)


def test_what_is_wrong_is_told(od: ondemand.Ondemand) -> None:
    with pytest.raises(ondemand.NotFound) as unknown:
        od.environments.create("demo", back_branch="nobodys")
    assert "nobodys" in str(unknown.value)
    with pytest.raises(ondemand.InvalidName):
        od.environments.create("Not A Name")
    with pytest.raises(ondemand.InvalidInput):
        od.environments.create("demo", keep_days=10)
    made = od.environments.create("demo")
    with pytest.raises(ondemand.AlreadyExists):
        od.environments.create("demo")
    # It was somebody else's to undo.
    assert od.environments.get("demo") == made
    od.environments.delete("demo")


def test_awaited_it_is_the_same(od: ondemand.Ondemand, url: str) -> None:
    async def main() -> None:
        client = aio.connect(url, "a token")
        made = await client.environments.create("demo")
        assert await client.environments.list() == ["demo"] and visit(made.links[0]) == 200
        lines = [line async for line in client.environments.logs("demo", tail=1)]
        assert len(lines) == 1
        await client.environments.delete("demo")

    asyncio.run(main())


def test_what_cannot_be_seen_once_it_is_made_is_deleted_by_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONDEMAND_TOKEN", raising=False)
    deleted: "queue.Queue[Tuple[str, Optional[str]]]" = queue.Queue()

    class Server(BaseHTTPRequestHandler):
        """Makes an environment, and then fails."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(200, {"status": "done", "urls": []})

        def do_GET(self) -> None:
            self.answer(500, {"code": "backend", "detail": "on purpose"})

        def do_DELETE(self) -> None:
            deleted.put((self.path, self.headers["authorization"]))
            self.answer(200, {"status": "done"})

        def answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        od = ondemand.connect(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ondemand.Backend) as kept:
            od.environments.create("demo", github_token="a token of a user's")
        # Though somebody still has the exception.
        assert deleted.get(timeout=60) == ("/envs/demo", "Bearer a token of a user's")
        assert "on purpose" in str(kept.value)
        server.shutdown()


@pytest.mark.parametrize("name", ["demo", None])
@pytest.mark.parametrize("seconds", [0, 0.1, 0.2, 0.5])
def test_a_creation_that_is_cancelled_leaves_nothing(od: ondemand.Ondemand, url: str, name: Optional[str], seconds: float) -> None:
    async def main() -> None:
        creation = asyncio.ensure_future(aio.connect(url, "a token").environments.create(name))
        await asyncio.sleep(seconds)
        if creation.done():
            # It was faster, and is nobody's to undo.
            od.environments.delete((await creation).name)
            return
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation

    asyncio.run(main())


@pytest.mark.parametrize("name", ["demo", None])
def test_a_creation_that_is_cancelled_when_it_is_done_leaves_nothing(
    od: ondemand.Ondemand, url: str, name: Optional[str]
) -> None:
    async def main() -> None:
        creation = asyncio.ensure_future(aio.connect(url, "a token").environments.create(name))
        while not od.environments.list():
            assert not creation.done(), await creation
            await asyncio.sleep(0.01)
        (made,) = od.environments.list()
        # The answer is here, and the loop, which is held up, has not looked at it. Nothing public tells so.
        ready = vars(asyncio.get_running_loop())["_ready"]
        eventually(lambda: len(ready) > 0, "there is no answer")
        assert od.environments.get(made).status == "ready"
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation

    asyncio.run(main())
