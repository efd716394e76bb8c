"""Our supervisor, worker and protocol around an application that does what the test asks: `python -m … WORKERS FLAG`.

A worker does not start while the file FLAG exists.
"""

import asyncio
import os
import sys
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiproxy.settings")

from aiproxy.supervisor import Service, SideProcess


def say(text):
    os.write(1, f"{text}\n".encode())


class Stage:
    def __init__(self, flag):
        self.flag = flag
        self.grace = 0.0
        self.draining = None

    def drain(self, grace):
        self.grace = grace
        self.draining.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await getattr(self, scope["path"][1:])(lambda text: self.write(send, text))
            await send({"type": "http.response.body"})

    async def lifespan(self, receive, send):
        await receive()
        self.draining = asyncio.Event()
        if self.flag.exists():
            return await send({"type": "lifespan.startup.failed", "message": "the flag is up"})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("worker ended")
        await send({"type": "lifespan.shutdown.complete"})

    async def write(self, send, text):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def pid(self, write):
        await write(f"{os.getpid()}")

    async def stream(self, write):
        await write("begin")
        await self.draining.wait()
        await write(f"{self.grace}")

    async def long(self, write):
        await write("begin")
        await self.draining.wait()
        await asyncio.sleep(self.grace)
        await write("end")

    async def stuck(self, write):
        await write("begin")
        await asyncio.Event().wait()


def beside(stop):
    say(f"side {os.getpid()}")
    stop.wait()
    say("side ended")


class StageService(Service):
    def load(self):
        return Stage(Path(sys.argv[2]))


if __name__ == "__main__":
    StageService("127.0.0.1", 0, workers=int(sys.argv[1]), side_processes=[SideProcess("side", beside)]).run()
