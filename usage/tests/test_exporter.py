"""Exports made by a process of their own: whole, or broken for everybody to see."""

import asyncio
import contextlib
import pickle
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from usage import exporter
from usage.export import Download
from usage.tests.conftest import wait_until


def numbers(count):
    for number in range(count):
        yield b"%d\n" % number


ONE = pickle.dumps((numbers, (1,)))


def nothing_but_a_fault():
    yield b"begun\n"
    raise ValueError("no more")


@pytest.fixture
def channel(monkeypatch):
    monkeypatch.setattr(exporter, "_channel", None)
    channel = exporter.open_channel()
    with channel._orders, channel._ordering:
        yield channel


@contextlib.contextmanager
def running(channel):
    """In a thread, which alone becomes nicer."""
    stop = threading.Event()
    thread = threading.Thread(target=channel.serve, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def serving(channel):
    with running(channel):
        yield channel


def at_work():
    return [thread for thread in threading.enumerate() if "_fulfil" in thread.name]


def test_what_is_made_beside_comes_back_whole(serving):
    assert list(exporter.pieces(numbers, 3)) == [b"0\n", b"1\n", b"2\n"]


def test_exports_do_not_wait_for_one_another(serving):
    first, second = exporter.pieces(numbers, 9), exporter.pieces(numbers, 9)
    assert [next(first), next(second), next(first)] == [b"0\n", b"0\n", b"1\n"]
    assert len([*first, *second]) == 7 + 8


begun: queue.SimpleQueue[None] = queue.SimpleQueue()
go_on = threading.Event()


def held_up():
    begun.put(None)
    go_on.wait(10)
    yield b"."


def test_no_more_pieces_are_made_at_a_time_than_there_are_connections_for(serving):
    exports = [exporter.pieces(held_up) for _ in range(exporter.TURNS + 4)]
    wait_until(lambda: len(at_work()) == len(exports) and begun.qsize() >= exporter.TURNS)
    assert begun.qsize() == exporter.TURNS
    go_on.set()
    assert [list(export) for export in exports] == [[b"."]] * len(exports)


def test_an_order_waits_for_the_exporter_to_begin(channel):
    with channel.order(ONE) as client, running(channel):
        assert [client.recv_bytes(), client.recv_bytes()] == [b"0\n", b""]


def test_a_failure_breaks_the_export_and_is_logged(serving, caplog):
    export = exporter.pieces(nothing_but_a_fault)
    assert next(export) == b"begun\n"
    with pytest.raises(exporter.ExportBroken):
        next(export)
    assert "An export failed" in caplog.text and "no more" in caplog.text


def test_a_client_that_leaves_is_nobodys_failure(serving, caplog):
    export = exporter.pieces(numbers, 10_000_000)
    next(export)
    (thread,) = at_work()
    export.close()
    thread.join(10)
    assert not thread.is_alive() and not caplog.records


@pytest.mark.django_db(transaction=True)
def test_its_descriptor_is_closed_although_nobody_closes_the_response(serving):
    """As when a drain ends; left to the collector it would be closed twice, by the connection and by who reads it."""
    download = Download(numbers, 10_000_000)

    async def read_one():
        pieces = aiter(download)
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(read_one())
    for thread in at_work():
        thread.join(10)
    assert not at_work()


def test_more_orders_than_can_wait_are_refused(channel):
    channel._ordering.settimeout(0)
    with contextlib.ExitStack() as waiting, pytest.raises(exporter.ExportRefused):
        while True:
            waiting.enter_context(channel.order(ONE))


def test_nobody_waits_for_an_exporter_that_does_not_come_once_the_client_has_left(channel):
    """Else a worker that outlives its master could never end."""
    left = threading.Event()
    waiting = ThreadPoolExecutor(1).submit(list, exporter.pieces(numbers, 1, left=left))
    left.set()
    assert waiting.result(10) == []


def test_it_is_made_here_where_there_is_no_exporter(monkeypatch):
    monkeypatch.setattr(exporter, "_channel", None)
    assert list(exporter.pieces(numbers, 2)) == [b"0\n", b"1\n"]
