"""Runs real clients against the service, and the service against providers' servers that we did not write.

python -m clients                                   all of them
python -m clients --client litellm --mock aimock    some; both may be repeated

Exit status 0: whatever ran was right; 1: something was wrong; 2: nothing could be run.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import matrix, verdict
from clients.environments import Missing
from clients.matrix import CASES, CLIENTS, PROVIDERS, Client, Told
from clients.mocks import STARTERS, Mock
from tests.service import Person, Service, running, until

PARALLEL = 2  # clients at a time


@dataclass
class Result:
    """What came of one client at one mock: a reason why it was not run, or what is wrong by provider and case."""

    client: Client
    mock: str
    missing: str = ""
    told: list[Told] = field(default_factory=list)
    key_id: str = ""
    wrong: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def own(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if row["proxy_key_id"] == self.key_id]

    def has_its_rows(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the log has what was answered already: the shipper is a moment behind."""
        answered = [told for told in self.told if told.case == "error" or "raised" not in told.got]
        return all(verdict.rows_of(told, self.own(rows)) for told in answered)

    def mark(self, provider: str, case: str) -> str:
        return "–" if self.missing else "✗" if self.wrong[provider, case] else "✓"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m clients", description=__doc__.partition("\n")[0])
    parser.add_argument("--client", action="append", metavar="WORD", help="only clients whose names hold this word")
    parser.add_argument("--mock", action="append", choices=STARTERS, help="only this server of providers")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    chosen = [client for client in CLIENTS if not given.client or any(word in client.name for word in given.client)]
    results = [result for name in given.mock or STARTERS for result in at_mock(name, chosen)]
    show(results)
    if all(result.missing for result in results):
        print("\nNothing was run.")
        return 2
    return int(any(any(result.wrong.values()) for result in results))


def at_mock(name: str, clients: list[Client]) -> list[Result]:
    try:
        with STARTERS[name]() as mock, tempfile.TemporaryDirectory(prefix="aiproxy-clients-") as directory:
            settings = {f"AIPROXY_{provider.upper()}_BASE_URL": url for provider, url in mock.base_urls.items()}
            with running(Path(directory), **settings) as service:
                return perform(service, mock, clients)
    except Missing as reason:
        return [Result(client, name, missing=f"{name}: {reason}") for client in clients]


def perform(service: Service, mock: Mock, clients: list[Client]) -> list[Result]:
    person = service.sign_up()
    service.set_plan(rpm=None, tpm=None, max_proxy_keys=2 * len(CLIENTS))
    for provider in set(PROVIDERS) - {"openai"}:
        stored = service.call(
            "/api-keys", {"provider": provider, "label": "", "key": "demo-" + "k" * 30}, token=person.token
        )
        assert stored.status == 201, stored.body
    with ThreadPoolExecutor(PARALLEL) as pool:
        results = list(pool.map(lambda client: tell(person, mock, client), clients))
    until(lambda: all(result.has_its_rows(person.requests()) for result in results), "every answer has its row")
    rows, bodies = person.requests(), mock.bodies()
    for result in results:
        if not result.missing:
            judge(result, mock=mock, bodies=bodies, rows=result.own(rows))
    return results


def tell(person: Person, mock: Mock, client: Client) -> Result:
    minted = person.service.call("/proxy-api-keys/generate", {"name": client.name[:50]}, token=person.token).json()
    result = Result(client, mock.name, key_id=minted["id"])
    print(f"{mock.name}: {client.name} …", file=sys.stderr, flush=True)
    try:
        result.told = list(matrix.run(client, url=person.service.url, key=minted["key"]))
    except Missing as reason:
        result.missing = str(reason)
    return result


def judge(result: Result, *, mock: Mock, bodies: list[str], rows: list[dict[str, Any]]) -> None:
    told = {(one.provider, one.case): one for one in result.told}
    for provider in PROVIDERS:
        for case in CASES:
            one = told.get((provider, case))
            found = (
                verdict.problems(result.client, one, mock=mock, bodies=bodies, rows=rows) if one else ["it did not run"]
            )
            result.wrong[provider, case] = found


def show(results: list[Result]) -> None:
    print(f"\nEach cell: {', '.join(CASES)}\n")
    width = max(len(result.client.name) for result in results)
    print(f"{'':{width}}  {'':7}" + "".join(f"{provider:12}" for provider in PROVIDERS))
    for result in results:
        cells = ("".join(result.mark(provider, case) for case in CASES) for provider in PROVIDERS)
        print(f"{result.client.name:{width}}  {result.mock:7}" + "".join(f"{cell:12}" for cell in cells))
    for result in results:
        if result.missing:
            print(f"– {result.client.name}, {result.mock}: {result.missing}")
        for (provider, case), found in result.wrong.items():
            if found:
                print(f"✗ {result.client.name}, {result.mock}, {provider}, {case}: {'; '.join(found)}")


if __name__ == "__main__":
    sys.exit(main())
