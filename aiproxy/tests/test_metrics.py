import os
import re
import socket
import subprocess
import sys
import urllib.request

import pytest
from django.test import Client, RequestFactory
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from aiproxy import metrics

TOKEN = "t0ken-" * 6


@pytest.fixture
def client():
    return Client()


def scrape(client, token=TOKEN):
    return client.get("/metrics", headers={"authorization": f"Bearer {token}", "host": "10.1.2.3:8000"})


def test_it_is_not_there_without_a_token_configured(client, settings):
    settings.AIPROXY_METRICS_TOKEN = ""
    assert scrape(client, "").status_code == 404
    assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer é"])
def test_it_is_not_there_for_who_lacks_the_token(client, settings, header):
    settings.AIPROXY_METRICS_TOKEN = TOKEN
    assert client.get("/metrics", headers={"authorization": header}).status_code == 404


def test_it_answers_in_prometheus_format(client, settings):
    settings.AIPROXY_METRICS_TOKEN = TOKEN
    response = scrape(client)
    assert response.status_code == 200
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert "django_http_responses_total_by_status_view_method" in names


def labels(client):
    families = text_string_to_metric_families(scrape(client).text)
    return {value for family in families for sample in family.samples for value in sample.labels.values()}


def test_it_has_no_label_that_a_client_can_make_up(client, settings, db):
    settings.AIPROXY_METRICS_TOKEN = TOKEN
    client.get("/")
    client.get("/made-up-path")
    client.generic("MADEUP", "/made-up-path")
    client.get("/", headers={"host": "made-up.example.org", "user-agent": "made-up"})
    found = labels(client)
    assert not {value for value in found if re.search("made-?up", value, re.IGNORECASE)}
    assert {"landing", "<invalid method>"} <= found


def test_it_adds_up_what_several_processes_count(tmp_path, settings, monkeypatch):
    count = "from prometheus_client import Counter; Counter('shared', 'x').inc(21)"
    environment = {"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], env=environment, check=True, timeout=60)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    settings.AIPROXY_METRICS_TOKEN = TOKEN
    response = metrics.exposition(RequestFactory().get("/metrics", HTTP_AUTHORIZATION=f"Bearer {TOKEN}"))
    assert "shared_total 42.0" in response.text


def test_it_shows_its_own_numbers_when_it_is_alone(monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert metrics.registry() is REGISTRY


def test_it_serves_a_port_of_its_own_on_the_loopback():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = metrics.serve_port(port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
            assert b"python_info" in response.read()
    finally:
        server.shutdown()
        server.server_close()
