"""Tasks that begin at once and go on within the callback that brings what they wait for."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.eager import EagerTask, Waiter, waiter
from proxy.tests.upstream_peer import turns


def begin(coroutine: Coroutine[Any, Any, None]) -> EagerTask:
    task = EagerTask(coroutine, asyncio.get_running_loop())
    task.go_on()
    return task


class Story:
    """What a coroutine came to, and what it waits for."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.waiting: Any = None

    async def wait(self) -> None:
        self.told.append("began")
        self.waiting = waiter(asyncio.get_running_loop())
        try:
            self.told.append(await self.waiting)
        except BaseException as error:
            self.told.append(type(error))
            raise


async def test_it_begins_at_once_and_goes_on_with_the_result():
    story = Story()
    task = begin(story.wait())
    assert (story.told, task.done()) == (["began"], False)
    story.waiting.set_result("result")
    assert (story.told, task.done()) == (["began", "result"], True)


async def test_it_takes_a_result_that_came_before_it_was_waited_for():
    told = []

    async def wait() -> None:
        early = waiter(asyncio.get_running_loop())
        early.set_result("early")
        told.append(await early)

    begin(wait())
    assert told == ["early"]


async def test_it_raises_where_it_waits_what_the_waiter_fails_with(caplog):
    story = Story()
    begin(story.wait())
    story.waiting.set_exception(ValueError("no"))
    assert story.told == ["began", ValueError]
    assert "An eager task failed" in caplog.text


async def test_it_is_cancelled_where_it_waits_a_turn_later():
    story = Story()
    task = begin(story.wait())
    assert task.cancel()
    assert story.told == ["began"]
    await turns(1)
    assert (story.told, task.done(), task.cancel()) == (["began", asyncio.CancelledError], True, False)
    story.waiting.set_result("late")  # which nobody hears
    assert story.told == ["began", asyncio.CancelledError]


async def test_it_is_cancelled_by_what_comes_first():
    story = Story()
    task = begin(story.wait())
    task.cancel()
    story.waiting.set_result("result")
    await turns(2)
    assert story.told == ["began", asyncio.CancelledError]


async def test_it_goes_on_after_a_cancel_that_it_survives():
    told = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append(asyncio.current_task().uncancel())
        told.append(await waiter(asyncio.get_running_loop()) if told else None)

    task = begin(stubborn())
    task.cancel()
    await turns(2)
    assert (told, task.done()) == ([0], False)
    task.cancel()
    await turns(1)
    assert task.done()


async def test_it_goes_on_once_after_a_cancel_that_finds_it_waiting_for_a_turn():
    story = Story()

    async def stubborn() -> None:
        asyncio.current_task().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await story.wait()

    task = begin(stubborn())
    await turns(3)
    assert (story.told, task.done()) == (["began"], False)
    story.waiting.set_result("result")
    assert (story.told, task.done()) == (["began", "result"], True)


async def wait_for_future() -> str:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, "future")
    return await future


async def wait_for_task() -> str:
    return await asyncio.create_task(asyncio.sleep(0, "task"))


async def wait_too_long() -> str:
    try:
        async with asyncio.timeout(0.001):
            await waiter(asyncio.get_running_loop())
    except TimeoutError:
        return "timeout"
    return ""


async def wait_a_turn() -> str:
    await asyncio.sleep(0)
    return "turn"


@pytest.mark.parametrize(
    ("wait", "result"),
    [(wait_for_future, "future"), (wait_for_task, "task"), (wait_too_long, "timeout"), (wait_a_turn, "turn")],
)
async def test_it_may_await_whatever_a_task_may(wait: Callable[[], Coroutine[Any, Any, str]], result: str):
    done = asyncio.get_running_loop().create_future()

    async def run() -> None:
        done.set_result(await wait())

    begin(run())
    assert await asyncio.wait_for(done, 5) == result


async def test_it_is_the_current_task_while_it_runs_and_only_then():
    seen = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        await waiter(asyncio.get_running_loop())
        seen.append(asyncio.current_task())

    outer = asyncio.current_task()
    task = begin(look())
    task._awaited.set_result(None)
    assert seen == [task, task]
    assert asyncio.current_task() is outer


async def test_it_gives_other_tasks_a_future_to_wait_for():
    assert isinstance(waiter(asyncio.get_running_loop()), asyncio.Future)
    made = []

    async def make() -> None:
        made.append(waiter(asyncio.get_running_loop()))

    begin(make())
    assert isinstance(made[0], Waiter)
