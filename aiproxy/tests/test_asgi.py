"""Django behind the door: what a page leaves behind."""

import asyncio
import gc

import pytest
from django.core.handlers.asgi import ASGIRequest

from aiproxy.asgi import Handler

PAGE = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/livez", "query_string": b"", "headers": []}


@pytest.mark.parametrize("leaves", [False, True])
async def test_it_needs_no_collector_to_forget_a_page(leaves):
    messages, answered = [{"type": "http.request", "body": b""}], []

    async def receive():
        if not messages and not leaves:
            await asyncio.Event().wait()
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        answered.append(message)

    gc.collect()
    gc.disable()
    try:
        await Handler()(PAGE, receive, send)
        await asyncio.sleep(0)
        assert not [known for known in gc.get_objects() if type(known) is ASGIRequest]
    finally:
        gc.enable()
    assert leaves or answered[0]["status"] == 200
