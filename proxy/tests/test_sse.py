import pytest

from proxy import sse

STREAM = [
    b'data: {"a":1}',
    b": comment",
    b"event: x\ndata: 1\ndata: 2",
    b"data: \xe2\x80\xa8 \xc2\x85 \x0b",
    b"data: [DONE]",
]


def stream(eol: bytes) -> bytes:
    return b"".join(event.replace(b"\n", eol) + eol + eol for event in STREAM)


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_it_gives_back_every_byte_whatever_the_split(eol):
    whole = stream(eol)
    for cut in range(len(whole) + 1):
        blocks = sse.Blocks()
        out = blocks.feed(whole[:cut]) + blocks.feed(whole[cut:])
        assert out + blocks.rest == whole
        assert blocks.rest in (b"", b"\n")  # of a CRLF cut in half: a blank line of its own


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_it_finds_the_same_events_byte_by_byte(eol):
    blocks, found = sse.Blocks(), []
    for byte in stream(eol):
        if block := blocks.feed(bytes([byte])):
            found += [sse.data_of(event) for event in sse.events(block) if event.strip()]
    assert found == [b'{"a":1}', b"", b"1\n2", "\u2028 \x85 \x0b".encode(), b"[DONE]"]


def test_it_never_gives_half_an_event():
    blocks = sse.Blocks()
    assert blocks.feed(b"data: 1\n\ndata: 2\n") == b"data: 1\n\n"
    assert blocks.rest == b"data: 2\n"
    assert blocks.feed(b"\n") == b"data: 2\n\n"


def test_it_keeps_a_lone_crlf_together():
    blocks = sse.Blocks()
    assert blocks.feed(b"event: a\r\ndata: 1\r\n") == b""
    assert blocks.feed(b"\r\n") == b"event: a\r\ndata: 1\r\n\r\n"


def test_it_refuses_an_event_without_an_end(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT", 1000)
    blocks = sse.Blocks()
    with pytest.raises(sse.EventTooLong):
        for _ in range(11):
            blocks.feed(b"x" * 100)


def test_it_splits_a_block_into_events_that_join_again():
    block = stream(b"\n")
    assert b"".join(sse.events(block)) == block
    assert len(sse.events(block)) == len(STREAM)


def test_it_reads_names_and_data_with_and_without_a_space():
    assert sse.name_of(b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n") == b"result"
    assert sse.data_of(b"id:1\nevent:result\n:HTTP_STATUS/200\ndata:{}\n\n") == b"{}"
