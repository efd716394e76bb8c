"""What is measured, and how each is brought up: the provider alone, nginx as the plainest reverse proxy, peers.

A peer is installed into a throw-away environment under the user's cache, with its registry's ordinary client. One that
cannot be installed or started says why, and has no figures.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path

from benchmarks.client import Endpoint
from benchmarks.machine import TARGET
from benchmarks.processes import OPENER, Running
from tests.servers import free_port

# Of this very interpreter: another one's build is another figure.
CACHE = Path(
    os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache",
    f"aiproxy-bench/python-{sha256(f'{sys.version}{sys.base_prefix}'.encode()).hexdigest()[:12]}",
)
VERSIONS = {"litellm": "1.106.2", "portkey": "1.15.2"}


class Unavailable(Exception):
    """Why a target could not be measured, in one line."""


class Target:
    """`start` returns the seconds from exec to the first 200 on its health page."""

    name = ""
    title = ""
    version = ""
    running: Running | None = None
    endpoint: Endpoint

    def __init__(self, directory: Path, provider: int) -> None:
        self.directory, self.provider, self.port = directory, provider, free_port()
        self.log = directory / f"{self.name}.log"

    def start(self) -> float:
        raise NotImplementedError

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()

    def alone(self) -> AbstractContextManager[None]:
        """Within it, what is measured has no work done beside it that could as well be done elsewhere, or later."""
        return nullcontext()

    def cpu_seconds(self) -> float:
        return self.running.cpu_seconds() if self.running else 0.0

    def memory_mb(self) -> float:
        return self.running.memory_mb() if self.running else 0.0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class Direct(Target):
    name, title = "direct", "no proxy"

    def start(self) -> float:
        self.endpoint = Endpoint(self.provider, headers=(("authorization", f"Bearer {'k' * 40}"),))
        return 0.0


NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.error;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_buffer_size 256k;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 100000000;
  upstream provider {{ server 127.0.0.1:{provider}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /health {{ return 200; }}
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class Nginx(Target):
    name, title = "nginx", "nginx, plain reverse proxy"

    def start(self) -> float:
        binary = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if binary is None:
            raise Unavailable("not installed")
        printed = subprocess.run([binary, "-v"], capture_output=True, text=True).stderr
        self.version = printed.partition("/")[2].strip()
        directory = self.directory / "nginx"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)  # as root its worker is somebody else
        configuration = directory / "nginx.conf"
        configuration.write_text(NGINX.format(directory=directory, provider=self.provider, port=self.port))
        command = [binary, "-c", configuration, "-e", directory / "nginx.error"]
        self.running = Running(command, self.log, core=TARGET)
        self.endpoint = Endpoint(self.port, headers=(("authorization", f"Bearer {'k' * 40}"),))
        return self.running.wait_for(self.url("/health"))


def install(command: Sequence[object], done: Path, *, directory: Path) -> None:
    """Once: `done` is there afterwards."""
    if done.exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    try:
        ended = subprocess.run(
            [str(part) for part in command], cwd=directory, capture_output=True, text=True, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"could not be installed: {error}") from error
    if ended.returncode or not done.exists():
        raise Unavailable(f"could not be installed: {last_line(ended.stdout + ended.stderr)}")


def last_line(text: str) -> str:
    """The end of what a program said, without colours, addresses of registries and paths."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return re.sub(r"https?://\S+", "<url>", lines[-1])[:200] if lines else "it said nothing"


class LiteLLM(Target):
    """Its proxy with a master key, one worker; no callbacks, no database."""

    name, title = "litellm", "LiteLLM proxy, master key"
    database = ""

    def start(self) -> float:
        home = CACHE / f"litellm-{VERSIONS['litellm']}"
        self.bin = home / "bin"
        install([sys.executable, "-m", "venv", home], self.bin / "python", directory=CACHE)
        wanted = [f"litellm[proxy]=={VERSIONS['litellm']}", "prisma"]
        pip = [self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        install(pip, self.bin / "litellm", directory=home)
        self.version = VERSIONS["litellm"]
        self.prepare()
        key = "sk-" + secrets.token_urlsafe(24)
        configuration = self.directory / f"{self.name}.json"  # which is YAML too
        configuration.write_text(json.dumps(self.configuration(key)))
        command = [self.bin / "litellm", "--config", configuration, "--host", "127.0.0.1", "--port", self.port]
        self.running = Running([*command, "--num_workers", "1"], self.log, core=TARGET, environment=self.environment())
        seconds = self.running.wait_for(self.url("/health/liveliness"), patience=180)
        self.endpoint = Endpoint(self.port, headers=(("authorization", f"Bearer {self.client_key(key)}"),))
        return seconds

    def configuration(self, key: str) -> dict[str, object]:
        upstream = {"model": "openai/*", "api_base": f"http://127.0.0.1:{self.provider}/v1", "api_key": "k" * 40}
        return {
            "model_list": [{"model_name": "*", "litellm_params": upstream}],
            "general_settings": {"master_key": key},
            "litellm_settings": {"telemetry": False},
        }

    def environment(self) -> dict[str, str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        kept = {"HOME": os.environ.get("HOME", "/"), "PATH": path, "LITELLM_LOG": "ERROR"}
        # Its price list is fetched at start: the copy in the package serves as well, and no machine's network counts.
        return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1,localhost"}

    def prepare(self) -> None:
        """Before the process starts; raises Unavailable."""

    def client_key(self, key: str) -> str:
        return key


class LiteLLMDatabase(LiteLLM):
    """The same with PostgreSQL: a virtual key of its own, and spend logs."""

    name, title = "litellm_db", "LiteLLM proxy, virtual keys and spend logs"

    def __init__(self, directory: Path, provider: int, database: str) -> None:
        super().__init__(directory, provider)
        self.database = database

    def prepare(self) -> None:
        schemas = list((self.bin.parent / "lib").glob("python*/site-packages/litellm/proxy/schema.prisma"))
        command = [self.bin / "prisma", "generate", "--schema", *schemas[:1]]
        try:
            done = subprocess.run(
                [str(part) for part in command],
                env=self.environment(),
                cwd=self.directory,
                capture_output=True,
                text=True,
                timeout=90,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable("could not be run: prisma's engine did not arrive within 90 s") from error
        if done.returncode:
            said = last_line(done.stdout + done.stderr)
            raise Unavailable(f"could not be run: `prisma generate` needs an engine that it downloads: {said}")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DATABASE_URL": self.database}

    def client_key(self, key: str) -> str:
        request = urllib.request.Request(self.url("/key/generate"), b"{}", method="POST")
        request.add_header("authorization", f"Bearer {key}")
        request.add_header("content-type", "application/json")
        with OPENER.open(request, timeout=60) as answer:
            return str(json.load(answer)["key"])


class Portkey(Target):
    """Portkey's open gateway: it holds no keys and no accounts; the client sends the provider's key."""

    name, title = "portkey", "Portkey gateway"

    def start(self) -> float:
        node = shutil.which("node")
        if node is None or shutil.which("npm") is None:
            raise Unavailable("could not be installed: node and npm are not there")
        home = CACHE / f"portkey-{VERSIONS['portkey']}"
        server = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        package = f"@portkey-ai/gateway@{VERSIONS['portkey']}"
        install(["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", package], server, directory=home)
        node_version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
        self.version = f"{VERSIONS['portkey']} on Node {node_version}"
        environment = {"PATH": os.environ["PATH"], "TRUSTED_CUSTOM_HOSTS": "127.0.0.1", "NODE_ENV": "production"}
        command = [node, server, "--headless", f"--port={self.port}"]
        self.running = Running(command, self.log, core=TARGET, environment=environment)
        seconds = self.running.wait_for(self.url("/"))
        upstream = ("x-portkey-custom-host", f"http://127.0.0.1:{self.provider}/v1")
        identity = ("authorization", f"Bearer {'k' * 40}")
        self.endpoint = Endpoint(self.port, headers=(identity, ("x-portkey-provider", "openai"), upstream))
        return seconds
