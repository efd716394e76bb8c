"""What ships beside the code agrees with the code: manifests, workflows, alert rules, dashboards, runbooks."""

import re
from pathlib import Path

import pytest
import yaml
from django.core.management import get_commands

ROOT = Path(__file__).parents[1]
SHIPPED = [ROOT / "compose.yaml", *sorted([*(ROOT / "k8s").rglob("*"), *(ROOT / ".github").rglob("*")])]
YAML = [path for path in SHIPPED if path.suffix in {".yaml", ".yml"}]
COMMAND = re.compile(r"manage\.py ([a-z]\w+)")


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
    assert {one["args"][0] for one in ours} >= {"serve", "migrate", "prune_requests", "check_api_keys"}
    assert {one["args"][0] for one in ours} <= get_commands().keys()


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=named)
def test_every_command_that_is_written_about_exists(path):
    assert set(COMMAND.findall(path.read_text())) <= get_commands().keys() | {"help"}


def test_a_pod_is_given_longer_to_end_than_the_service_takes():
    (pods,) = documents(ROOT / "k8s/base/statefulset.yaml")
    (settings,) = documents(ROOT / "k8s/base/configmap.yaml")
    pod = pods["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + int(settings["data"]["AIPROXY_GRACE"]) + 10
