"""What ships beside the code agrees with the code: manifests, workflows, alert rules, dashboards, runbooks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from django.core.management import get_commands
from prometheus_client import REGISTRY

from proxy import metrics as _proxy_metrics  # noqa: F401  they register what the service exports
from tests.image import context
from usage import metrics as _usage_metrics  # noqa: F401

ROOT = Path(__file__).parents[1]
SHIPPED = [ROOT / "compose.yaml", *sorted([*(ROOT / "k8s").rglob("*"), *(ROOT / ".github").rglob("*")])]
YAML = [path for path in SHIPPED if path.suffix in {".yaml", ".yml"}]
MONITORING = ROOT / "k8s/monitoring"
COMMAND = re.compile(r"manage\.py ([a-z]\w+)")
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = [
    path
    for package in sorted(ROOT.glob("*/__init__.py"))
    for path in sorted(package.parent.rglob("*"))
    if path.suffix in {".py", ".lua"}
]
FILE = re.compile(r"(?<![\w/.:-])(?:[\w-]+/)*[\w-]+\.(?:py|lua|md)\b(?![\w/])")
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)#?([^)\s]*)\)")


def named(path):
    return str(path.relative_to(ROOT))


def documents(path):
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def containers(node):
    """Every container anywhere in a manifest."""
    if isinstance(node, dict):
        yield from (one for one in node.get("containers", []) if isinstance(one, dict))
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from containers(inner)


@pytest.mark.parametrize("path", YAML, ids=named)
def test_it_ships_yaml_that_can_be_read(path):
    assert documents(path)


def test_every_container_of_ours_runs_a_command_that_exists():
    ours = [one for path in YAML for one in containers(documents(path)) if one.get("args") and one["name"] != "redis"]
    assert {one["args"][0] for one in ours} >= {"serve", "migrate", "prune_requests", "check_api_keys", "check_prices"}
    assert {one["args"][0] for one in ours} <= get_commands().keys()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=named)
def test_every_command_that_is_written_about_exists(path):
    assert set(COMMAND.findall(path.read_text())) <= get_commands().keys() | {"help"}


def test_every_file_that_is_written_about_is_there():
    files = [path.relative_to(ROOT).parts for path in (*PAGES, *CODE, *ROOT.glob("*.py"))]
    known = {"/".join(parts[start:]) for parts in files for start in range(len(parts))}
    written = {(named(path), file) for path in (*PAGES, *CODE) for file in FILE.findall(path.read_text())}
    assert ("docs/architecture.md", "server.py") in written
    assert not [(where, file) for where, file in sorted(written) if file not in known]


def heading_ids(page):
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_of_the_documentation_leads_somewhere():
    links = [(path, *link) for path in PAGES for link in LINK.findall(path.read_text())]
    assert (ROOT / "README.md", "docs/API.md", "fallbacks") in links
    for path, place, heading in links:
        target = path.parent / place if place else path
        assert target.exists(), (path, place)
        assert not heading or heading in heading_ids(target), (path, heading)


def test_no_secret_test_or_data_gets_into_the_image():
    sent = context()
    assert {"manage.py", "requirements/prod.txt", "aiproxy/settings.py"} <= {str(path) for path in sent}
    data = {".env", ".pem", ".key", ".crt", ".log", ".dump", ".sqlite3", ".pyc", ".md"}
    assert not [path for path in sent if path.suffix in data or path.name.startswith(".")]
    assert not [path for path in sent if {"tests", "var", "staticfiles", "node_modules"} & set(path.parts)]


def test_compose_gives_each_service_of_ours_a_command_that_exists():
    services = [one for one in documents(ROOT / "compose.yaml")[0]["services"].values() if "build" in one]
    assert {one["command"][0] for one in services if "command" in one} <= get_commands().keys()
    assert all(one["read_only"] and one["cap_drop"] == ["ALL"] for one in services)


def test_a_pod_is_given_longer_to_end_than_the_service_takes():
    (pods,) = documents(ROOT / "k8s/base/statefulset.yaml")
    (settings,) = documents(ROOT / "k8s/base/configmap.yaml")
    pod = pods["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + int(settings["data"]["AIPROXY_GRACE"]) + 10


def test_every_action_is_pinned_by_digest():
    used = [line for path in YAML for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert all(re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in used)


def alerts():
    (rule,) = documents(MONITORING / "rules.yaml")
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def queries(source):
    if source == "rules":
        return [one["expr"] for one in alerts()]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.mark.parametrize("source", ["rules", "dashboard"])
def test_it_watches_only_what_is_exported(source):
    exported = {name for family in REGISTRY.collect() for name in (family.name, f"{family.name}_total")}
    asked = {name for query in queries(source) for name in re.findall(r"\baiproxy_\w+", query)}
    assert len(asked) > 10
    assert {name.removesuffix("_bucket") for name in asked} <= exported


def test_every_alert_leads_to_its_runbook():
    titles = re.findall(r"^## (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in titles}
    named_there = {one["annotations"]["runbook"] for one in alerts() if "alert" in one}
    assert named_there
    assert named_there <= {f"docs/operations.md#{anchor}" for anchor in anchors}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is not installed")
def test_alerts_are_raised_when_they_should_be(tmp_path):
    (rule,) = documents(MONITORING / "rules.yaml")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    shutil.copy(MONITORING / "rules.test.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules.test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
