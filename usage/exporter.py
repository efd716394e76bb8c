"""Owns the process in which exports are made. In a worker an export would hold the interpreter's lock whenever the
event loop wants it, for as long as there are rows (docs/decisions/0014); beside it, the kernel says who comes first.

A worker that wants one makes a pair of sockets, and passes one of them on through the channel that all processes of a
service have from their master; pieces come back through the other. Nobody else can reach that channel.
"""

import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any

from django.db import connection

from accounts.errors import ServiceUnavailable

logger = logging.getLogger(__name__)

NICENESS = 10
POLL = 0.5  # seconds until an end is noticed, or that a client has left
PATIENCE = 5.0  # seconds for an order to find room: the kernel holds a hundred or two (net.core.wmem_default)
# Pieces made at a time: they share one interpreter, and each needs a database connection, of which there are few.
TURNS = 4
_LONGEST_ORDER = 1 << 16  # bytes
_END = b""
_turn = threading.BoundedSemaphore(TURNS)

Make = Callable[..., Iterator[bytes]]


class ExportBroken(Exception):
    """The process that made it failed, which it has logged, or is gone."""


class ExportRefused(ServiceUnavailable):
    default_detail = "Too many exports wait to be made. Try again in a moment."


class Channel:
    """To be made in the master, before it forks. Orders wait in it while no exporter runs."""

    def __init__(self) -> None:
        self._orders, self._ordering = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._orders.settimeout(POLL)
        self._ordering.settimeout(PATIENCE)

    def order(self, order: bytes) -> Connection:
        try:
            near, far = socket.socketpair()
            exporter = Connection(near.detach())
            with far:
                socket.send_fds(self._ordering, [order], [far.fileno()])
        except OSError as error:
            logger.warning("No export can be ordered: %s", error)
            raise ExportRefused from error
        return exporter

    def serve(self, stop: threading.Event) -> None:
        """The exporter: a thread for each export, until `stop` is set."""
        os.nice(NICENESS)
        while not stop.is_set():
            try:
                order, descriptors, _, _ = socket.recv_fds(self._orders, _LONGEST_ORDER, 1)
            except TimeoutError:
                continue
            for descriptor in descriptors:  # none where no more files may be open: the worker sees it closed
                threading.Thread(target=_fulfil, args=(order, Connection(descriptor)), daemon=True).start()


def _made(order: bytes) -> Generator[bytes]:
    make, args = pickle.loads(order)  # noqa: S301  # one of our own processes wrote it
    return make(*args)  # type: ignore[no-any-return]


def _fulfil(order: bytes, client: Connection) -> None:
    with client:
        try:
            made, piece = _made(order), None
            while piece != _END:
                with _turn:
                    piece = next(made, _END)
                    connection.close()  # back to the pool, for as long as the client reads
                client.send_bytes(piece)
        except ConnectionError:
            pass  # nobody wants it any more
        except Exception:
            logger.exception("An export failed")
        finally:
            connection.close()


_channel: Channel | None = None


def open_channel() -> Channel:
    global _channel
    _channel = Channel()
    return _channel


def pieces(make: Make, *args: Any, left: threading.Event | None = None) -> Generator[bytes]:
    """What `make(*args)` yields, made in the exporter; in this process where a service has none, as `runserver`.

    `make` is a function of a module, `args` can be pickled. Waits for no more pieces once `left` is set. Raises
    ExportRefused at once, ExportBroken on the way.
    """
    order = pickle.dumps((make, args))
    return _made(order) if _channel is None else _received(_channel.order(order), left or threading.Event())


def _received(exporter: Connection, left: threading.Event) -> Generator[bytes]:
    with exporter:
        try:
            while not left.is_set():
                if not exporter.poll(POLL):
                    continue
                piece = exporter.recv_bytes()
                if piece == _END:
                    return
                yield piece
        except (EOFError, OSError) as error:
            raise ExportBroken("The process that makes exports failed, or is gone.") from error
