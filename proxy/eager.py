"""Tasks that begin at once, and go on within the very callback that brings what they wait for.

An `asyncio.Task` begins, and goes on after each wait, one turn of the loop later. A request waits for the limiter and
for its provider, and these turns were a good part of what it cost (docs/decisions/0010). An EagerTask may await what a
Task may: futures, `asyncio.timeout`, `sleep`. What spares it the turn is the `waiter()` it gets in place of a future.

Whoever completes a waiter runs the code that waits for it: let that be the last thing a callback does.
"""

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # documented, for tasks that are not asyncio's
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
_current_task = asyncio.current_task


class EagerTask:
    """Stands in for an `asyncio.Task` wherever code asks for its own task."""

    __slots__ = ("_awaited", "_cancel_due", "_cancelling", "_coroutine", "_loop", "_on_end")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        """`on_end` is told what the coroutine has raised, None if nothing. Without it that goes to the loop's exception
        handler, but for CancelledError."""
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._loop = loop
        self._on_end = on_end
        self._awaited: Any = None  # a Waiter or a future
        self._cancel_due = False
        self._cancelling = 0

    def go_on(self) -> None:
        """Runs until the next wait, or the end. The first call starts it."""
        coroutine, loop = self._coroutine, self._loop
        if coroutine is None:
            return
        outer = None
        try:
            _enter_task(loop, self)  # type: ignore[arg-type]
        except RuntimeError:  # another one is running: its code has brought the news
            outer = _current_task(loop)
            assert outer is not None
            _leave_task(loop, outer)
            _enter_task(loop, self)  # type: ignore[arg-type]
        self._awaited = None
        try:
            if self._cancel_due:
                self._cancel_due = False
                awaited = coroutine.throw(asyncio.CancelledError())
            else:
                awaited = coroutine.send(None)
        except StopIteration:
            self._coroutine = None
            if (on_end := self._on_end) is not None:
                on_end(None)
        except BaseException as error:
            self._coroutine = None
            self._failed(error)
        else:
            self._awaited = awaited
            if type(awaited) is not Waiter:
                self._wait_for(awaited)
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]
            if outer is not None:
                _enter_task(loop, outer)

    def _wait_for(self, future: "asyncio.Future[Any] | None") -> None:
        """As an asyncio.Task does; None is yielded by `asyncio.sleep(0)`."""
        if future is None:
            if not self._cancel_due:  # else that is on its way, and goes on
                self._loop.call_soon(self.go_on)
            return
        future._asyncio_future_blocking = False
        future.add_done_callback(self._completed)
        if self._cancel_due and future.cancel():
            self._cancel_due = False

    def _completed(self, future: "asyncio.Future[Any]") -> None:
        if future is self._awaited:
            del future  # what it failed by knows its frames, and would know this one: a cycle
            self.go_on()

    def _failed(self, error: BaseException) -> None:
        if self._on_end is not None:
            self._on_end(error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error
        if self._on_end is None and not isinstance(error, asyncio.CancelledError):
            self._loop.call_exception_handler({"message": "An eager task failed", "exception": error})

    # What code asks of its own task.

    def done(self) -> bool:
        return self._coroutine is None

    def cancel(self, msg: object = None) -> bool:
        """CancelledError is raised where it waits, a turn of the loop later. False: it has ended."""
        if self._coroutine is None:
            return False
        self._cancelling += 1
        awaited = self._awaited
        if awaited is None or type(awaited) is Waiter or not awaited.cancel():
            self._cancel_due = True
            self._loop.call_soon(self._cancel_now)
        return True

    def _cancel_now(self) -> None:
        if self._cancel_due:
            self.go_on()

    def cancelling(self) -> int:
        return self._cancelling

    def uncancel(self) -> int:
        self._cancelling = max(0, self._cancelling - 1)
        return self._cancelling


class Waiter(msgspec.Struct, Generic[T], eq=False):
    """What one EagerTask waits for once; completed like a future, by somebody who has no more to do."""

    _task: EagerTask
    _is_done: bool = False
    _error: BaseException | None = None
    _result: Any = None

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: T) -> None:
        self._result, self._is_done = result, True
        if self._task._awaited is self:
            self._task.go_on()

    def set_exception(self, error: BaseException) -> None:
        self._error, self._is_done = error, True
        if self._task._awaited is self:
            self._task.go_on()

    def __await__(self) -> Generator[Any, None, T]:
        if not self._is_done:
            yield self
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result


def waiter(loop: asyncio.AbstractEventLoop) -> "Waiter[Any] | asyncio.Future[Any]":
    """For the task that asks: what it may await, and somebody else completes."""
    task: Any = _current_task(loop)
    return Waiter(task) if type(task) is EagerTask else loop.create_future()
