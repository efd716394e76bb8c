"""What is shipped runs: the Dockerfile's steps, and compose.yaml's services in what they make (`make image-test`)."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.image import Image, context
from tests.servers import free_port
from tests.service import PATIENCE, ROOT, Service, until

pytestmark = [
    pytest.mark.image,
    pytest.mark.postgres,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount: sudo --preserve-env=PATH make image-test"),
]

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
TOOLS = {"pip", "setuptools", "wheel", "ensurepip", "uv", "gcc", "cc", "ld", "curl", "git"}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[Image]:
    image = Image(tmp_path_factory.mktemp("image"))
    try:
        yield image.build()
    finally:
        image.close()


class Contained(Service):
    """compose.yaml's services in the image, with this run's PostgreSQL and Redis in the place of its own."""

    def __init__(self, image: Image, directory: Path, *, database: str, redis: str) -> None:
        super().__init__(directory)
        self.image = image
        self.elsewhere = {"DATABASE_URL": database, "REDIS_URL": redis}
        self.elsewhere["AIPROXY_OPENAI_BASE_URL"] = f"http://127.0.0.1:{free_port()}/v1"

    def service(self, name: str) -> list[str]:
        declared = COMPOSE[name]
        command = [*self.image.stage.entrypoint, *declared.get("command", self.image.stage.command)]
        command = [str(self.port) if word == "8000" else word for word in command]
        environment = declared["environment"] | (self.elsewhere if declared["environment"] else {})
        return self.image.container(command, environment, declared["volumes"])

    def once(self, name: str) -> str:
        done = subprocess.run(self.service(name), capture_output=True, text=True, timeout=10 * PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def command(self) -> list[str]:
        return self.service("aiproxy")

    @property
    def first(self) -> int:
        """Process 1 of the container, as it is called out here."""
        assert self.process is not None
        return self.children(self.process.pid)[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        os.kill(self.first, how)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def contained(image, tmp_path_factory, module_postgres_database) -> Iterator[Contained]:
    directory = tmp_path_factory.mktemp("contained")
    contained = Contained(image, directory, database=module_postgres_database, redis=os.environ["TEST_REDIS_URL"])
    assert "Made /data/env" in contained.once("secrets")
    contained.once("migrate")
    contained.start()
    yield contained
    if contained.process.poll() is None:
        contained.stop()


@pytest.fixture
def provider(contained):
    """compose.yaml's mock provider, on the port where the service looks for it."""
    command = contained.service("mock-provider")
    port = contained.elsewhere["AIPROXY_OPENAI_BASE_URL"].removesuffix("/v1").rpartition(":")[2]
    command[-1] = re.sub(r"\b8001\b", port, command[-1])
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    os.kill(contained.children(process.pid)[0], signal.SIGTERM)
    process.wait(PATIENCE)
    process.stdout.close()


def test_it_streams_an_answer_to_its_end_and_keeps_the_row(contained, provider):
    person = contained.sign_up()
    answer = person.chat(stream=True)
    assert answer.status == 200
    assert answer.body.rstrip().endswith(b"data: [DONE]")
    assert until(lambda: [row["outcome"] for row in person.requests()], "the row") == ["ok"]


def test_it_serves_its_pages_with_their_static_files(contained):
    page = contained.call("/").body.decode()
    linked = set(re.findall(r'"(/static/[^"]+)"', page + contained.call("/docs").body.decode()))
    assert linked
    assert {path: contained.call(path).status for path in linked} == dict.fromkeys(linked, 200)


def test_its_health_check_passes(contained):
    command = [word.replace(":8000", f":{contained.port}") for word in contained.image.stage.healthcheck]
    done = contained.image.exec(contained.first, command)
    assert done.returncode == 0, done.stderr


def test_it_runs_as_nobody_in_particular_and_writes_to_its_volumes_alone(contained):
    probe = (
        "id -u; grep CapEff /proc/self/status; touch /app/x /venv/x /etc/x /secrets/x; touch /data/x /tmp/x && echo ok"
    )
    done = contained.image.exec(contained.first, ["sh", "-c", probe])
    assert done.stdout.split() == ["10001", "CapEff:", "0000000000000000", "ok"]
    assert done.stderr.count("Read-only file system") == 4, done.stderr


def test_it_finds_its_secrets_readable_by_it_alone(contained):
    done = contained.image.exec(
        contained.first, ["stat", "--format=%a %u", "/secrets/env", "/secrets/database_password"]
    )
    assert done.stdout.splitlines() == ["600 10001"] * 2


def test_a_second_start_keeps_the_secrets(contained):
    assert "nothing was changed" in contained.once("secrets")


def test_it_needs_no_other_process_1(contained):
    """It takes in the orphans that it is given, and ends when told to, though the kernel protects process 1."""
    orphan = "import os, sys; os.fork() or os.execlp('sleep', 'sleep', '0')"
    assert contained.image.exec(contained.first, ["python", "-c", orphan]).returncode == 0
    listing = ["sh", "-c", "grep -l ') Z' /proc/[0-9]*/stat || echo none"]
    until(lambda: contained.image.exec(contained.first, listing).stdout.strip() == "none", "orphans are taken in")
    assert contained.stop() == 0, contained.log.read_text()


def test_it_holds_the_code_and_nothing_besides(image, capsys):
    code = {path for path in image.files("/app") if "__pycache__" not in path.parts and path.parts[0] != "staticfiles"}
    assert code == {Path(path) for path in context()}
    with capsys.disabled():
        print(f"\nThe image adds {image.size() / 1e6:.0f} MB to its base.")


@pytest.mark.parametrize("folder", ["/venv", "/usr/local/lib", "/usr/local/bin"])
def test_it_holds_nothing_that_installs_or_compiles(image, folder):
    made = [path for path in image.files(folder) if image.is_ours(f"{folder}/{path}")]
    tools = [path for path in made if TOOLS & {path.name.split("-")[0], *path.parts}]
    assert tools == []


def test_it_was_built_without_a_secret(image):
    assert not {"SECRET_KEY", "AIPROXY_MASTER_KEYS"} & image.stage.env.keys()
    assert not [path for path in image.files("/app") if path.suffix in {".pem", ".key", ".sqlite3", ".log"}]
