"""What a translation costs a chunk: `python -m benchmarks.wires`. CPU time of one process, decoders alone, no sockets.

A stream comes in pieces of one event, as from a provider, and in pieces of many, as from a full socket buffer.
"""

import json
import time
from collections.abc import Callable, Iterable

from proxy.wire import Call
from proxy.wires import WIRES

CHUNKS = 2000
ROUNDS = 5


def _anthropic_event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def anthropic(delta: dict[str, object], block: dict[str, object]) -> list[bytes]:
    usage = {"input_tokens": 9, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}
    part = _anthropic_event("content_block_delta", index=0, delta=delta)
    return [
        _anthropic_event("message_start", message={"id": "msg_1", "model": "claude-sonnet-5", "usage": usage}),
        _anthropic_event("content_block_start", index=0, content_block=block),
        *[part] * CHUNKS,
        _anthropic_event("content_block_stop", index=0),
        _anthropic_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": CHUNKS}),
        _anthropic_event("message_stop"),
    ]


STREAMS: dict[str, tuple[str, list[bytes]]] = {
    "anthropic, text": ("anthropic", anthropic({"type": "text_delta", "text": "word "}, {"type": "text", "text": ""})),
    "anthropic, tool": (
        "anthropic",
        anthropic(
            {"type": "input_json_delta", "partial_json": '"word",'},
            {"type": "tool_use", "id": "toolu_1", "name": "write", "input": {}},
        ),
    ),
    "anthropic, thinking": (
        "anthropic",
        anthropic(
            {"type": "thinking_delta", "thinking": "word "}, {"type": "thinking", "thinking": "", "signature": ""}
        ),
    ),
}


def microseconds_a_chunk(provider: str, pieces: Iterable[bytes]) -> float:
    """The best of ROUNDS: what is above it is the machine's."""
    pieces = list(pieces)
    best = float("inf")
    for _ in range(ROUNDS):
        decoder = WIRES[provider].decoder(Call("m", stream=True, include_usage=True))
        feed: Callable[[bytes], bytes] = decoder.feed
        began = time.process_time()
        for piece in pieces:
            feed(piece)
        best = min(best, time.process_time() - began)
        assert decoder.complete and decoder.failure is None, decoder.failure
    return best / CHUNKS * 1e6


def main() -> None:
    print(f"{'stream':24}{'one by one':>12}{'by 64 KiB':>12}   µs of CPU a chunk")
    for name, (provider, events) in STREAMS.items():
        whole = b"".join(events)
        large = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
        single, many = microseconds_a_chunk(provider, events), microseconds_a_chunk(provider, large)
        print(f"{name:24}{single:12.1f}{many:12.1f}")


if __name__ == "__main__":
    main()
