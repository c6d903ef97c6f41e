"""What operations ask for, without saying whether it is waited for by blocking or by awaiting.

An operation is a generator: it yields what is to be done, is sent the outcome, and returns its result. The same generator is run by
a driver that blocks and by one that awaits, so that both interfaces are one implementation.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Generator, Optional, TypeVar, Union

from . import _native

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """An HTTP request; its outcome is an answer.

    If that is a success which nobody claims, what it made is deleted: `undo` is where, and `{FIELD}` in it is that field of the answer. With
    `finish` the request is carried to its end even if nobody waits any more.
    """

    method: str
    path: str
    body: Optional[bytes] = None
    file: Optional[str] = None
    undo: Optional[str] = None
    finish: bool = False


@dataclass(frozen=True)
class Open:
    """An HTTP request whose answer comes bit by bit; its outcome is a stream."""

    method: str
    path: str
    body: Optional[bytes] = None


@dataclass(frozen=True)
class Read:
    """What comes next of a stream; its outcome is bytes, or None at the end."""

    stream: _native.Stream


@dataclass(frozen=True)
class Hold:
    """The lease of this process; its outcome is nothing."""

    lease: str


@dataclass(frozen=True)
class Sleep:
    """Some time."""

    seconds: float


@dataclass(frozen=True)
class Call:
    """A function of the user's; its outcome is what it returns. A driver that awaits lets it be a coroutine function too."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Block:
    """A function that blocks for a moment; its outcome is what it returns."""

    function: Callable[[], Any]


Effect = Union[Request, Open, Read, Hold, Sleep, Call, Block]
Operation = Generator[Effect, Any, T]

Do = Callable[[Effect], Any]
DoAsync = Callable[[Effect], Awaitable[Any]]


def run(operation: Operation[T], do: Do) -> T:
    """Run an operation, blocking."""
    try:
        effect = next(operation)
        while True:
            try:
                outcome = do(effect)
            except BaseException as error:
                effect = operation.throw(error)
            else:
                effect = operation.send(outcome)
    except StopIteration as done:
        result: T = done.value
        return result


async def run_async(operation: Operation[T], do: DoAsync) -> T:
    """Run an operation, awaiting."""
    try:
        effect = next(operation)
        while True:
            try:
                outcome = await do(effect)
            except BaseException as error:
                effect = operation.throw(error)
            else:
                effect = operation.send(outcome)
    except StopIteration as done:
        result: T = done.value
        return result


async def call_async(function: Callable[[], Any]) -> Any:
    """Call a function that may be a coroutine function."""
    result = function()
    return (await result) if inspect.isawaitable(result) else result
