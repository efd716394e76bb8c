"""Owns what the scripted provider may do with one request, and what the service must make of it.

A request carries its own script in its prompt, `nonce|act|first|second`: the provider, the client and the verdict read
the same line, so that nobody has to guess what was meant to happen. Knows no sockets.
"""

from dataclasses import dataclass, replace

# The service under test has these time-outs (seconds): a stall must end within a run.
FIRST_BYTE_TIMEOUT = 1.5
IDLE_TIMEOUT = 1.5

# Complete answers that say "not served": the only ones after which another key may be asked.
NOT_SERVED = frozenset({401, 402, 429, 503, 529})


@dataclass(frozen=True, slots=True)
class Act:
    """`outcome`: what the row must say when nothing but this act happened; `code`: of the error a client is told."""

    outcome: str
    code: str = ""
    status: int = 200  # before any byte of the answer
    plain: bool = True
    streamed: bool = True
    # How often it is drawn, relative to the others.
    weight: int = 1


BROKEN = Act("provider_error", "provider_broken", 502)

ACTS = {
    "ok": Act("ok", weight=24),
    "bytes": Act("ok", weight=3),  # every byte in a write of its own
    "split": Act("ok", weight=6),  # cut in two at one byte
    "mute": Act("ok"),  # no usage at all
    "zero": Act("ok"),  # a usage of nothing
    "large": Act("ok", streamed=False),  # more than is held back
    "status": Act("provider_error", weight=4),  # `first` is the status
    "spare": Act("ok", weight=2),  # 429 to the first key, an answer to the second
    "stall": Act("timeout", "provider_timeout", 504, weight=2),  # streamed: after `first` chunks
    "close": BROKEN,  # reads the request, and closes
    "reset": BROKEN,
    "garbage": BROKEN,  # not HTTP
    "gzip": BROKEN,  # compressed although asked not to
    "cut": replace(BROKEN, streamed=False),  # fewer bytes than announced
    "fin": replace(BROKEN, plain=False, weight=2),  # half-closes after `first` chunks
    "unended": replace(BROKEN, plain=False),  # a clean end without [DONE]
    "garbled": replace(BROKEN, plain=False),  # broken chunk framing after `first` chunks
    "error": Act("provider_error", status=502, plain=False),  # an error event after `first` chunks
}


@dataclass(frozen=True, slots=True)
class Script:
    nonce: str
    act: str
    first: int = 0
    second: int = 0

    @classmethod
    def parse(cls, prompt: str) -> "Script":
        nonce, act, first, second = prompt.split("|")
        return cls(nonce, act, int(first), int(second))

    def __str__(self) -> str:
        return f"{self.nonce}|{self.act}|{self.first}|{self.second}"

    @property
    def refusals(self) -> frozenset[int]:
        """The status that is told of a complete answer after which another key is asked, if there is one."""
        if self.act == "spare":
            return frozenset({429})
        return self.statuses(streamed=False) if self.act == "status" and self.first in NOT_SERVED else frozenset()

    def takes(self, *, streamed: bool) -> int:
        """Milliseconds that the provider is silent before the end of a whole answer, at least."""
        return 0 if streamed and self.act in {"bytes", "split"} else self.second

    def statuses(self, *, streamed: bool) -> frozenset[int]:
        """What a client may be sent when nothing but this act happened."""
        act = ACTS[self.act]
        if self.act == "status":
            return frozenset({503 if self.first == 529 else self.first})
        begun = streamed and self.first > 0 and self.act in {"stall", "fin", "garbled", "error"}
        if begun or (streamed and self.act == "unended"):
            return frozenset({200})
        return frozenset({act.status})
