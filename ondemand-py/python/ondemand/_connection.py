"""A server, or a keeper, as this process reaches it."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import secrets
import socket
import threading
import time
import weakref
from typing import Any, Callable, List, Optional, Tuple

from . import _effects, _errors, _keeper, _native
from ._effects import Operation, T


class _State:
    """What belongs to one process, and not to those forked from it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session: Optional[_native.Session] = None
        # Where the session leads, if to a keeper.
        self.found: Optional[Tuple[str, str]] = None
        # Whoever knows it can hold it, so it is guessed by nobody.
        self.lease = secrets.token_hex(16)
        self.held = False
        self.peers: List[Tuple[str, int]] = []


class Connection:
    """Whom to ask: a URL and a token, or a keeper that is started on demand. Threads may share it."""

    def __init__(
        self,
        url: Optional[str] = None,
        token: Optional[str] = None,
        keeper: Optional[_keeper.Options] = None,
    ) -> None:
        self._url, self._token, self.keeper = url, token, keeper
        self._state = _State()
        if url is not None:
            self._session_at(url, token)
        _connections.add(self)

    def __repr__(self) -> str:
        return f"embedded, in {self.keeper.data_dir}" if self.keeper else f"at {self._url}"

    @property
    def url(self) -> Optional[str]:
        """The URL of the server; none of a keeper's."""
        return self._url

    @property
    def has_token(self) -> bool:
        """Whether the server is told a token."""
        return self._token is not None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        leased: bool = False,
        file: Optional[str] = None,
        raw: Optional[bytes] = None,
        undo: Optional[str] = None,
        finish: bool = False,
    ) -> Operation[Any]:
        """Ask, and return the JSON of the answer. What is leased is told the lease."""
        def asked() -> _effects.Request:
            # The lease that is held by now: whoever lets go of one takes another.
            whole = {**body, "Lease": self._state.lease} if leased else body
            encoded = raw if whole is None else json.dumps(whole).encode()
            return _effects.Request(method, path, encoded, file=file, undo=undo, finish=finish)

        answer = yield from self.answer(asked, leased)
        result = content(answer)
        answer.claim()
        return result

    def answer(self, ask: Callable[[], _effects.Request], leased: bool = False) -> Operation[_native.Answer]:
        """Ask, and return the answer, which is a success."""
        attempt = 0
        while True:
            yield from self._ready(leased)
            session, asked = self._state.session, ask()
            try:
                answer: _native.Answer = yield asked
                break
            except ConnectionError as error:
                yield from self._lost(session, error, attempt)
                attempt += 1
            except _native.Unreadable as error:
                raise _errors.InvalidInput(
                    f"file {asked.file!r} cannot be read", causes=[str(error)], hint="check what it is, and its permissions"
                ) from error
        if answer.status >= 300:
            raise _errors.from_problem(answer.body, answer.status)
        return answer

    def open(self, method: str, path: str) -> Operation[_native.Stream]:
        """Ask for what comes bit by bit."""
        yield from self._ready(False)
        try:
            stream: _native.Stream = yield _effects.Open(method, path)
        except ConnectionError as error:
            raise self._unreachable(error) from error
        if stream.status >= 300:
            answer = b""
            while chunk := (yield _effects.Read(stream)):
                answer += chunk
            raise _errors.from_problem(answer, stream.status)
        return stream

    def read(self, stream: _native.Stream) -> Operation[Optional[bytes]]:
        """Return what comes next of a stream."""
        try:
            return (yield _effects.Read(stream))  # type: ignore[no-any-return]
        except ConnectionError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """Let go of the lease: the databases on it are deleted."""
        state = self._state
        with state.lock:
            if state.session is not None:
                state.session.let_go()
            # What is asked for from now on is not among that which goes.
            state.held, state.lease = False, secrets.token_hex(16)

    def _ready(self, leased: bool) -> Operation[None]:
        """See to it that there is somebody to ask, and a lease where one is needed."""
        state = self._state
        for attempt in range(3):
            if state.session is None:
                assert self.keeper is not None
                options = self.keeper
                found = yield _effects.Block(lambda: _keeper.endpoint(options))
                self._session_at(*found)
                state.found = found
            # A keeper ends when nobody holds a lease, so one is held from the first question on.
            if state.held or not (leased or self.keeper):
                return
            session, lease = state.session, state.lease
            try:
                yield _effects.Hold(lease)
            except ConnectionError as error:
                yield from self._lost(session, error, attempt)
            else:
                with state.lock:
                    # Another thread, or task, may have let go of it by now; then the next one is held.
                    if state.session is session and state.lease == lease:
                        state.peers = session.peers() if session else []
                        state.held = True

    def _lost(self, session: Optional[_native.Session], error: ConnectionError, attempt: int) -> Operation[None]:
        """Look for another keeper where the one that was asked is gone; a server that is gone is an error."""
        if self.keeper is None or attempt == 2:
            raise self._unreachable(error) from error
        options, state = self.keeper, self._state
        with state.lock:
            gone = state.found
            # Another thread may have noticed before, and have found the next one.
            if state.session is not session:
                return
            if session is not None:
                session.let_go()
            state.session, state.found, state.held = None, None, False
        if gone is not None:
            yield _effects.Block(lambda: _keeper.await_another(options, gone))

    def _unreachable(self, error: ConnectionError) -> _errors.Error:
        said = str(error)
        # A lease that is refused is refused with a problem.
        status, _, body = said.partition(" ")
        if status.isdigit() and body.startswith("{"):
            return _errors.from_problem(body.encode(), int(status))
        hint = f"look into {self.keeper.data_dir}/keeper.log" if self.keeper else "is it running? check ONDEMAND_URL"
        return _errors.Unreachable(f"{self!r}: {said}", hint=hint)

    def _session_at(self, url: str, token: Optional[str]) -> None:
        state = self._state
        with state.lock:
            if state.session is None:
                try:
                    state.session = _native.Session(url, token)
                except ValueError as error:
                    raise _errors.InvalidInput(f"{url!r}: {error}", hint="write it as http://HOST:PORT") from None

    def _session(self) -> _native.Session:
        session = self._state.session
        if session is None:
            raise ConnectionError("the connection was closed")
        return session

    def run(self, operation: Operation[T]) -> T:
        """Run an operation, blocking."""
        return _effects.run(operation, self._do)

    async def run_async(self, operation: Operation[T]) -> T:
        """Run an operation, awaiting."""
        return await _effects.run_async(operation, self._do_async)

    def _do(self, effect: _effects.Effect) -> Any:
        if isinstance(effect, _effects.Request):
            return self._session().request(
                effect.method, effect.path, effect.body, effect.file, effect.undo, effect.finish
            )
        if isinstance(effect, _effects.Hold):
            return self._session().hold(effect.lease)
        if isinstance(effect, _effects.Open):
            return self._session().open(effect.method, effect.path, effect.body)
        if isinstance(effect, _effects.Read):
            return self._session().read(effect.stream)
        if isinstance(effect, _effects.Sleep):
            return time.sleep(effect.seconds)
        return effect.function()

    async def _do_async(self, effect: _effects.Effect) -> Any:
        if isinstance(effect, _effects.Request):
            return await self._session().request_async(
                effect.method, effect.path, effect.body, effect.file, effect.undo, effect.finish
            )
        if isinstance(effect, _effects.Hold):
            return await self._session().hold_async(effect.lease)
        if isinstance(effect, _effects.Open):
            return await self._session().open_async(effect.method, effect.path, effect.body)
        if isinstance(effect, _effects.Read):
            return await self._session().read_async(effect.stream)
        if isinstance(effect, _effects.Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, _effects.Block):
            return await asyncio.get_running_loop().run_in_executor(None, effect.function)
        return await _effects.call_async(effect.function)

    def _after_fork(self) -> None:
        """Become a connection of the process that was forked: with a session and a lease of its own, and no hold on the other's."""
        before, self._state = self._state, _State()
        if before.session is None:
            return
        _close_copies(before.peers)
        # Its threads are not here, so nothing of it may be touched any more, not even to free it.
        _of_parents.append(before.session)
        if self._url is not None:
            self._session_at(self._url, self._token)


def content(answer: _native.Answer) -> Any:
    """Return the JSON of an answer."""
    try:
        return json.loads(answer.body) if answer.body else None
    except ValueError:
        raise _errors.from_problem(answer.body, answer.status) from None


_connections: "weakref.WeakSet[Connection]" = weakref.WeakSet()
_of_parents: List[_native.Session] = []


def _close_copies(peers: List[Tuple[str, int]]) -> None:
    """Close this process's copies of the connections to a server. With one left open, the server would not notice the other's death."""
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = socket.socket(fileno=int(name))
        except OSError:
            continue
        try:
            if copy.getpeername()[:2] in peers:
                copy.close()
        except OSError:
            pass
        finally:
            copy.detach()


def _after_fork() -> None:
    for connection in list(_connections):
        connection._after_fork()


def _at_exit() -> None:
    for connection in list(_connections):
        connection.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
