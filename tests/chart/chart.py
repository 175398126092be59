"""Renders the chart with Helm's own engine, and reads the server's flags from `weir --help`."""

import functools
import os
import re
import subprocess
from pathlib import Path

import yaml
from helm_python import Chart

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "weir"
WEIR = Path(os.environ.get("WEIR_BINARY", ROOT / "target" / "debug" / "weir"))

# The files in ci/ that must render; minimal-values.yaml must not.
GOOD = sorted(
    path.name.removesuffix("-values.yaml")
    for path in (CHART / "ci").glob("*-values.yaml")
    if path.name != "minimal-values.yaml"
)

chart = Chart.load(CHART)


def values(name):
    """The values of ci/NAME-values.yaml."""
    return yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())


def with_value(base, path, value):
    """A copy of `base` with another value at a dotted path."""
    first, _, rest = path.partition(".")
    below = with_value(base.get(first, {}), rest, value) if rest else value
    return {**base, first: below}


class _StrictLoader(yaml.SafeLoader):
    """Refuses duplicate keys, as Kubernetes does."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"{twice} come twice, at {node.start_mark}"
        return super().construct_mapping(node, deep)


class Release:
    """The chart rendered with some values."""

    def __init__(self, given, name="weir", namespace="shop", **options):
        self.values = chart.merge_values(given)
        texts = chart.render(given, name=name, namespace=namespace, **options)
        self.notes = texts.pop("weir/templates/NOTES.txt")
        self.manifests = [
            manifest
            for text in texts.values()
            for manifest in yaml.load_all(text, Loader=_StrictLoader)
            if manifest is not None
        ]

    def all(self, kind):
        return [it for it in self.manifests if it["kind"] == kind]

    def one(self, kind, name=None):
        found = [it for it in self.all(kind) if name in (None, it["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    @property
    def template(self):
        return self.one("Deployment")["spec"]["template"]

    @property
    def container(self):
        (container,) = self.template["spec"]["containers"]
        return container

    @property
    def env(self):
        """The container's variables, by name."""
        return {it["name"]: it for it in self.container["env"]}

    @property
    def pods(self):
        """The pod templates, with their metadata."""
        return [self.template, *self.all("Pod")]


@functools.cache
def release(name):
    """The release of ci/NAME-values.yaml. Must not be modified."""
    return Release(values(name))


@functools.cache
def flags(command):
    """The flags of `weir COMMAND`, each with its variable or None."""
    assert WEIR.exists(), f"there is no {WEIR}: make chart builds it"
    run = subprocess.run([WEIR, command, "--help"], capture_output=True, text=True, check=True, env={})
    blocks = re.split(r"^ {2,6}(?:-\w, )?--(?=[a-z])", run.stdout, flags=re.MULTILINE)[1:]
    found = {}
    for block in blocks:
        flag = re.match(r"[a-z0-9-]+", block)[0]
        variable = re.search(r"\[env:\s*([A-Z0-9_]+)", block)
        found[flag] = variable and variable[1]
    return found


def quantity(text):
    """A size in Kubernetes' or Weir's notation, in bytes."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    powers = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return float(number) * powers[unit.removesuffix("B")]
