"""The benchmark tells the truth: its load generator counts right; its report hides neither a miss nor an absence."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks import load, question, report
from benchmarks.chart import chart
from benchmarks.client import Endpoint, Refused, chunk_delays, exchange, latencies
from benchmarks.provider import CHUNKS
from tests.servers import free_port
from tests.service import until

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def provider():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.provider", str(port)], cwd=ROOT)
    try:
        until(lambda: answers(port), "the provider answers")
        yield Endpoint(port)
    finally:
        process.terminate()
        process.wait(10)


def answers(port):
    try:
        return latencies(Endpoint(port), question.PLAIN, 0, warm_up=1) or True
    except OSError:
        return False


def targets(**changed):
    """A run in which every promise about rates is kept, but for what is changed."""
    ours = {"title": "aiproxy", "version": "", "requests_per_second": 12_000.0, "cpu_us_per_request": 80.0}
    nginx = {"title": "nginx", "version": "1", "requests_per_second": 40_000.0, "cpu_us_per_request": 20.0}
    return {
        "aiproxy": {**ours, **changed},
        "nginx": nginx,
        "litellm": {"title": "LiteLLM", "version": "", "unavailable": "no"},
    }


def verdicts(found):
    return {what: holds for what, _, _, holds in report.checks(found)}


def test_it_asks_exactly_as_often_as_told(provider):
    told = load.of_requests(provider, question.PLAIN, 8, 100)
    assert (told.requests, told.errors) == (100, 0)
    assert 0 < told.p50 <= told.p95 <= told.p99 <= told.slowest


def test_it_takes_whole_streams(provider):
    told = load.of_requests(provider, question.STREAM, 4, 20)
    assert (told.requests, told.errors) == (20, 0)


@pytest.mark.parametrize("body", [question.STREAM, question.BURST])
def test_it_is_sent_the_whole_of_a_stream(provider, body):
    with provider.connect() as connection:
        answers = [exchange(connection, provider.request(body)) for _ in range(2)]
    assert {answer.count(b"data: ") for answer in answers} == {CHUNKS + 3}


def test_it_sees_every_chunk_of_a_paced_stream(provider):
    first, under_way = chunk_delays(provider, question.PACED, 0)
    assert len(under_way) == CHUNKS * len(first)
    assert min(under_way) > 0


def test_it_counts_what_is_not_200_as_an_error_and_says_what_it_was():
    import http.server
    import threading

    class Refusing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(401)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = Endpoint(server.server_port)
        told = load.of_requests(endpoint, question.PLAIN, 2, 10)
        with pytest.raises(Refused, match="401"):
            latencies(endpoint, question.PLAIN, 0)
        server.shutdown()
    assert (told.requests, told.errors) == (0, 10)


def test_a_kept_promise_passes_and_a_missed_one_fails():
    assert verdicts(targets())["CPU a request"] is True
    assert verdicts(targets(cpu_us_per_request=91.0))["CPU a request"] is False


def test_what_was_not_measured_is_neither_kept_nor_missed():
    found = verdicts(targets())
    assert found["… x nginx"] is True
    assert found["… x litellm"] is None


def test_a_ratio_is_of_turns_that_followed_each_other():
    us, peer = {"turns": [100.0, 50.0, 90.0], "requests_per_second": 1.0}, {"turns": [10.0, 5.0, 10.0]}
    assert report.ratio_in_turns(us, peer) == 10
    assert report.ratio_in_turns({"requests_per_second": 8.0}, {"requests_per_second": 2.0}) == 4


def test_a_peer_that_could_not_run_stands_in_the_table_with_its_reason():
    assert "| LiteLLM | no |" in report.side_by_side(targets())


def test_it_tells_what_long_prompts_cost():
    found = targets(long_requests_per_second=5_000.0, long_cpu_us_per_request=180.0, long_errors=2)
    assert "requests/s: aiproxy 5,000 (180 µs), 2 errors." in report.notes(found)


def test_the_chart_is_an_image_that_names_everyone():
    drawn = ElementTree.fromstring(chart(targets()))
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"aiproxy", "nginx", "LiteLLM", "12,000", "could not be run here"} <= set(texts)
