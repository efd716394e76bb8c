"""Forms read in pieces: the model, and where it stands. What could be read in two ways is refused."""

import gc

import pytest

from proxy.errors import BadRequest
from proxy.multipart import MAX_HEAD, MAX_PARTS, MAX_VALUE, Form, boundary_of

MODEL = b'Content-Disposition: form-data; name="model"'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.mp3"\r\nContent-Type: audio/mpeg'


def form(*parts: tuple[bytes, bytes], end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + end


def read(body: bytes, *, size: int = 1 << 20) -> Form:
    found = Form(b"B")
    for start in range(0, len(body), size):
        found.feed(body[start : start + size])
    found.finish()
    return found


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        read(body)
    return refused.value


FORMS = [
    form((FILE, b"\r\n--\r\n-B\r\n\x00"), (MODEL, b"whisper-1")),
    form((MODEL, b"whisper-1"), (FILE, b"x" * 300)),
    form((MODEL, b"whisper-1"), (FILE, b""), end=b"--B--"),
]


@pytest.mark.parametrize("body", FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_it_finds_the_model_whatever_the_pieces(body, size):
    found = read(body, size=size)
    assert (found.model, body[slice(*found.span)]) == ("whisper-1", b"whisper-1")


def test_it_knows_the_model_as_soon_as_its_part_has_ended():
    found = Form(b"B")
    found.feed(form((MODEL, b"whisper-1"), end=b"--"))
    assert found.model is None
    found.feed(b"B")
    assert (found.model, found.complete) == ("whisper-1", False)


def test_it_reads_a_form_without_a_model():
    assert read(form((FILE, b"x"))).model is None


def test_it_holds_no_more_of_a_file_than_could_be_a_boundary():
    found = Form(b"B")
    found.feed(form((FILE, b""), end=b""))
    for _ in range(100):
        found.feed(b"\r\n-" * 10_000)
    assert len(found._rest) < 10


@pytest.mark.parametrize("name", [b"model", b'"model"'])
@pytest.mark.parametrize("more", [b"", b"\r\nContent-Type: text/plain; charset=utf-8", b"\r\nX-Any: thing"])
def test_it_takes_a_model_in_every_usual_spelling(name, more):
    assert read(form((b"content-disposition:form-data;name=" + name + more, b"m"))).model == "m"


@pytest.mark.parametrize("after", [MODEL, MODEL.replace(b'"', b""), MODEL.lower()])
def test_it_refuses_a_second_model_behind_the_file(after):
    refused = refusal(form((MODEL, b"a"), (FILE, b"x" * 100_000), (after, b"b")))
    assert (refused.param, refused.code) == ("model", "duplicate_parameter")


HEADS = {
    "file": MODEL + b'; filename="m"',
    "capital": MODEL.replace(b"model", b"Model"),
    "list": MODEL.replace(b"model", b"model[]"),
    "charset": MODEL + b"\r\nContent-Type: text/plain; charset=utf-16",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_it_refuses_a_model_that_is_no_plain_field(head):
    assert refusal(form((head, b"m"))).param == "model"


@pytest.mark.parametrize("value", [b"\xff", b"m" * (MAX_VALUE + 1)])
def test_it_refuses_a_model_that_is_no_name(value):
    assert refusal(form((MODEL, value))).param == "model"


DISPOSITION = b"Content-Disposition: form-data; "
BAD = {
    "nothing": b"",
    "other boundary": b"--C\r\n",
    "preamble": b"\r\n" + form((MODEL, b"m")),
    "bare line feeds": form((MODEL, b"m")).replace(b"\r\n", b"\n"),
    "no end": form((MODEL, b"m"), end=b""),
    "half an end": form((MODEL, b"m"), end=b"--B-"),
    "epilogue": form((MODEL, b"m"), end=b"--B--\r\n--B\r\n"),
    "padded boundary": form((MODEL, b"m")).replace(b"--B\r\n", b"--B \r\n"),
    "boundary within a line": form((FILE, b"x--B\r\n" + MODEL + b"\r\n\r\nm")),
    "boundary behind a line feed": form((FILE, b"x\n--B\r\n" + MODEL + b"\r\n\r\nm")),
    "no head": b"--B\r\n\r\n\r\nm\r\n--B--\r\n",
    "long head": form((MODEL + b"\r\nX: " + b"x" * MAX_HEAD, b"m")),
    "folded": form((MODEL + b"\r\n x: y", b"m")),
    "two dispositions": form((FILE + b"\r\n" + MODEL, b"m")),
    "no disposition": form((b"Content-Type: text/plain", b"m")),
    "attachment": form((MODEL.replace(b"form-data", b"attachment"), b"m")),
    "no name": form((DISPOSITION + b'filename="a"', b"m")),
    "two names": form((DISPOSITION + b'name="file"; name="model"', b"m")),
    "name in another charset": form((DISPOSITION + b"name=\"file\"; name*=utf-8''model", b"m")),
    "escaped name": form((DISPOSITION + b'name="mo%64el"', b"m")),
    "escaped quote": form((DISPOSITION + b'name="file"; filename="a\\"; name=\\"model"', b"m")),
    "base64": form((MODEL + b"\r\nContent-Transfer-Encoding: base64", b"bQ==")),
    "too many parts": form(*[(FILE, b"")] * (MAX_PARTS + 1)),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_it_refuses_what_could_be_read_in_two_ways(body):
    assert refusal(body).code == "invalid_multipart"


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;boundary="a b"', b"a b"),
        (b"multipart/form-data; boundary=----WebKitFormBoundaryX; charset=utf-8", b"----WebKitFormBoundaryX"),
    ],
)
def test_it_reads_the_boundary(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        *(
            b"",
            b"application/json",
            b"multipart/form-data",
            b"multipart/form-data; boundary=",
            b"multipart/mixed; boundary=a",
        ),
        *(b"multipart/form-data; boundary=a; boundary=b", b'multipart/form-data; boundary="a "'),
        *(b"multipart/form-data; boundary=" + b"a" * 71, b"multipart/form-data; boundary=a\xff"),
    ],
)
def test_it_refuses_a_content_type_that_is_no_form(content_type):
    with pytest.raises(BadRequest) as refused:
        boundary_of(content_type)
    assert refused.value.code == "invalid_multipart"


def test_it_needs_no_collector_to_forget_a_form():
    gc.collect()
    gc.disable()
    try:
        assert read(form((MODEL, b"whisper-1"))).complete
        assert not [known for known in gc.get_objects() if type(known) is Form]
    finally:
        gc.enable()
