"""What is kept for a while: given at once, asked for anew behind it, by one call at a time."""

import asyncio

import pytest

from proxy.refreshed import Refreshed


class Source:
    """Counts calls; each waits for its own release."""

    def __init__(self, *, young: float = 1000.0, open: bool = True) -> None:
        self.young = young
        self.known: list[int | None] = []
        self.gate = asyncio.Event()
        if open:
            self.gate.set()

    async def __call__(self, known: int | None) -> tuple[int, float]:
        self.known.append(known)
        count = len(self.known)
        await self.gate.wait()
        if self.young < 0:
            raise ValueError("away")
        return count, self.young


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_asks_once_while_the_value_is_young():
    kept, source = Refreshed(8), Source()
    assert [await kept.get("a", source) for _ in range(3)] == [1, 1, 1]
    assert source.known == [None]


async def test_it_asks_once_for_all_who_wait():
    kept, source = Refreshed(8), Source(open=False)
    waiting = [asyncio.create_task(kept.get("a", source)) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    source.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [1, 1]
    assert source.known == [None]


async def test_it_gives_an_old_value_at_once_and_the_new_one_after():
    kept, source = Refreshed(8), Source(young=0)
    assert await kept.get("a", source) == 1
    source.gate.clear()
    assert [await kept.get("a", source) for _ in range(3)] == [1, 1, 1]
    await turns()
    assert source.known == [None, 1]
    source.gate.set()
    await turns()
    assert await kept.get("a", source) == 2
    kept.close()


async def test_it_forgets_the_least_used():
    kept, source = Refreshed(2), Source()
    for key in ("a", "b", "a", "c", "a", "b"):
        await kept.get(key, source)
    assert len(source.known) == 4  # b was forgotten for c


async def test_it_passes_a_failure_on_and_asks_again():
    kept, source = Refreshed(8), Source(young=-1)
    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            await kept.get("a", source)
    assert source.known == [None, None]


async def test_it_leaves_nothing_behind():
    kept, source = Refreshed(8), Source(open=False)
    waiting = asyncio.create_task(kept.get("a", source))
    await turns()
    kept.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
