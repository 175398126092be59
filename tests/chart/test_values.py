"""Which values are accepted, and the messages for others."""

import json
import re

import helm_python
import kubernetes_validate
import pytest
import tomllib
import yaml

from chart import CHART, ROOT, Release, chart, flags, values, with_value

SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# Settings for which the chart has its own values, as they depend on others: files, ports, modes.
OWN = {
    "mongodb-uri", "listen", "admin-listen", "allow-open-metrics", "allow-insecure", "shutdown-grace", "check-config", "help",
    "explain", "claims", "try", "explain-output",
    "tls-cert-file", "tls-key-file", "tls-client-ca-file", "tls-client-auth",
    "jwks-url", "jwks-file", "jwks-ca-file", "jwt-issuer", "jwt-audience",
    "api-keys-file", "auth-certificates", "policy-file", "token-key-file", "admin-token-file",
}  # fmt: skip


def refused(given):
    with pytest.raises(helm_python.HelmError) as error:
        Release(given)
    return str(error.value)


def test_minimal_values_are_refused_with_advice():
    said = refused(values("minimal"))
    assert "no encryption (tls.enabled) and no authentication" in said
    assert "mesh.enabled" in said and "insecure" in said


def test_everything_missing_is_reported_at_once():
    said = refused({})
    for value in ("image.repository", "mongodb.existingSecret", "encryption"):
        assert value in said


def test_settings_and_flags_correspond():
    settings = set(SCHEMA["properties"]["settings"]["properties"])
    assert not settings & OWN
    assert settings | OWN == set(flags("serve")), "values.schema.json says which settings there are"
    for flag, variable in flags("serve").items():
        if flag in settings:
            assert variable == "WEIR_" + flag.replace("-", "_").upper()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replica", 3),
        ("replicas", "3"),
        ("replicas", -1),
        ("image.repo", "x"),
        ("image.pullPolicy", "Sometimes"),
        ("image.digest", "sha256:abc"),
        ("image.tag", "a tag"),
        ("fullnameOverride", "Not_A_Name"),
        ("mongodb.uri", "mongodb://user:password@db"),
        ("mongodb.existingSecret", "Not A Name"),
        ("insecure", "yes"),
        ("mesh.kind", "consul"),
        ("tls.cert", "-----BEGIN CERTIFICATE-----"),
        ("tls.clientAuth", "maybe"),
        ("tls.certManager.duration", "90 days"),
        ("tls.certManager.dnsNames", ["no name"]),
        ("auth.jwt.jwksUrl", "http://login.example/jwks.json"),
        ("auth.jwt.audiences", "weir"),
        ("auth.apiKeys.keys", [{"name": "billing", "key": "weir_secret"}]),
        ("auth.apiKeys.keys", [{"name": "billing", "sha256": "weir_secret"}]),
        ("policy.rules", []),
        ("policy.document", ["version: 1"]),
        ("tokenKeys.keys", ["AAAA"]),
        ("settings.max-watchs", 1),
        ("settings.max_watches", 1),
        ("settings.max-watches", 0),
        ("settings.max-watches", "many"),
        ("settings.max-feeds", 10_001),
        ("settings.listen", "0.0.0.0:1"),
        ("settings.shutdown-grace", "1h"),
        ("settings.progress-interval", 15),
        ("settings.progress-interval", "15"),
        ("settings.memory-limit", "1Gi"),
        ("settings.log-format", "xml"),
        ("settings.jwt-algorithms", "HS256"),
        ("settings.otlp-endpoint", "collector:4317"),
        ("settings.otlp-sample-ratio", 5),
        ("shutdown.preStopSeconds", -1),
        ("shutdown.graceSeconds", "10s"),
        ("listenAddress", "127.0.0.1"),
        ("probes.readiness.kind", "tcp"),
        ("probes.liveness.periodSeconds", 0),
        ("strategy.type", "OnDelete"),
        ("topologySpreadConstraints", [{"maxSkew": 1}]),
        ("extraArgs", "--all"),
        ("extraEnv", {"RUST_BACKTRACE": "1"}),
        ("service.type", "ExternalName"),
        ("service.port", 70_000),
        ("service.ipFamilies", ["IPv5"]),
        ("service.loadBalancerSourceRanges", ["10.0.0.0"]),
        ("networkPolicy.grpcFrom", [{}]),
        ("networkPolicy.adminFrom", [{}]),
        ("networkPolicy.grpcFrom", [{"podselector": {}}]),
        ("networkPolicy.egress.mongodb.ports", ["mongodb"]),
        ("podDisruptionBudget.minAvailable", "half"),
        ("autoscaling.minReplicas", 0),
        ("serviceMonitor.interval", "30"),
        ("podAnnotations", {"a": 1}),
        ("test.command", ["sh"]),
    ],
)
def test_the_schema_refuses_unusable_values(path, value):
    good = values("insecure")
    Release(good)
    with pytest.raises(helm_python.HelmError):
        chart.validate_schema(with_value(good, path, value))


@pytest.mark.parametrize(
    ("base", "change", "says"),
    [
        ("insecure", {"image.repository": ""}, "image.repository"),
        ("insecure", {"mongodb.existingSecret": ""}, "mongodb.existingSecret"),
        ("mesh", {"mesh.kind": ""}, "mesh.kind"),
        ("tls-auth", {"tls.existingSecret": ""}, "tls.existingSecret"),
        ("full", {"tls.existingSecret": "weir-tls"}, "two sources of one certificate"),
        ("full", {"tls.certManager.issuerRef.name": ""}, "issuerRef.name"),
        ("insecure", {"tls.existingSecret": "weir-tls"}, "tls.enabled"),
        ("insecure", {"tls.clientCa.existingSecret": "weir-clients"}, "tls.enabled"),
        ("full", {"tls.clientCa.existingSecret": ""}, "auth.certificates"),
        ("full", {"auth.jwt.jwksUrl": "https://login.example/jwks"}, "two sources of one set"),
        ("tls-auth", {"auth.jwt.issuer": ""}, "issuer and audiences"),
        ("tls-auth", {"auth.jwt.audiences": []}, "issuer and audiences"),
        ("tls-auth", {"auth.jwt.jwksUrl": "", "auth.certificates": False}, "no keys"),
        ("full", {"auth.jwt.caSecret": "weir-idp"}, "auth.jwt.caSecret"),
        ("full", {"auth.apiKeys.existingSecret": "weir-keys"}, "two sources of one file"),
        ("full", {"policy.existingConfigMap": "weir-policy"}, "two sources of one file"),
        ("tls-auth", {"probes.readiness.kind": "grpc"}, "does not support TLS"),
        ("insecure", {"podDisruptionBudget.minAvailable": 1}, "one of minAvailable and maxUnavailable"),
        ("insecure", {"podDisruptionBudget.maxUnavailable": None}, "one of minAvailable and maxUnavailable"),
        ("insecure", {"podDisruptionBudget.maxUnavailable": 0}, "block every node drain"),
        (
            "insecure",
            {"podDisruptionBudget.maxUnavailable": None, "podDisruptionBudget.minAvailable": 2},
            "block every node drain",
        ),
        (
            "insecure",
            {"podDisruptionBudget.maxUnavailable": None, "podDisruptionBudget.minAvailable": "100%"},
            "block every node drain",
        ),
        ("full", {"autoscaling.minReplicas": 13}, "greater than maxReplicas"),
        ("full", {"autoscaling.cpu": 0, "autoscaling.watches": 0}, "no metric to scale by"),
        ("full", {"resources.requests.cpu": None}, "resources.requests.cpu"),
        ("full", {"networkPolicy.grpcFrom": []}, "is empty, so no client could connect"),
        ("full", {"networkPolicy.egress.otlp.ports": []}, "networkPolicy.egress.otlp.ports"),
        ("full", {"settings.memory-limit": "4GiB"}, "settings.memory-limit"),
        ("insecure", {"resources.limits.memory": "1Gi"}, "settings.memory-limit"),
        ("insecure", {"resources.limits.memory": 1 << 30}, "settings.memory-limit"),
        ("insecure", {"strategy.type": "Recreate"}, "strategy.rollingUpdate"),
        ("insecure", {"extraEnv": [{"name": "WEIR_LISTEN", "value": "[::]:1"}]}, "extraEnv: WEIR_LISTEN"),
    ],
)
def test_contradictory_values_are_refused(base, change, says):
    given = values(base)
    for path, value in change.items():
        given = with_value(given, path, value)
    chart.validate_schema(given)
    assert says in refused(given)


@pytest.mark.parametrize(
    "change",
    [
        {"strategy.type": "Recreate", "strategy.rollingUpdate": None},
        {"podDisruptionBudget.maxUnavailable": None, "podDisruptionBudget.minAvailable": 1},
        {"podDisruptionBudget.maxUnavailable": None, "podDisruptionBudget.minAvailable": "50%"},
        {"resources.limits.memory": None},
        {"resources.limits.memory": "1.5Gi"},
        {"resources.limits.memory": 3 << 30},
        {"replicas": 0},
        {"service.type": "NodePort", "service.nodePort": 30051},
        {"serviceAccount.create": False},
        {"topologySpreadConstraints": []},
        {"autoscaling.enabled": True, "autoscaling.cpu": 0, "autoscaling.watches": 3000},
    ],
)
def test_compatible_values_are_accepted(change):
    given = values("insecure")
    for path, value in change.items():
        given = with_value(given, path, value)
    for manifest in Release(given).manifests:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_parent_chart_may_pass_globals():
    Release(values("insecure") | {"global": {"imageRegistry": "registry.example"}})


def leaves(tree, prefix=""):
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in WHOLE:
            yield from leaves(value, f"{path}.")
        else:
            yield path


# Passed on to Kubernetes unchanged.
WHOLE = {
    "settings", "resources", "strategy", "podSecurityContext", "containerSecurityContext",
    "probes.readiness", "probes.liveness", "probes.startup", "autoscaling.behavior",
    "grafanaDashboard.labels",
}  # fmt: skip


def test_the_readme_lists_every_value_with_its_default():
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = {}
    for row in re.findall(r"^\| `([^`]+)` \| (.*?) \| ", (CHART / "README.md").read_text(), re.M):
        rows[row[0]] = row[1]
    told = set(rows)
    assert told == set(leaves(defaults))
    for path, default in rows.items():
        value = defaults
        for part in path.split("."):
            value = value[part]
        if path not in WHOLE and not isinstance(value, list):
            assert yaml.safe_load(default.strip("`")) == value, path


def test_the_schema_knows_every_value():
    def known(schema, tree, path=""):
        while "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        for key, value in tree.items():
            if "properties" in schema:
                assert key in schema["properties"], path + key
                if isinstance(value, dict):
                    known(schema["properties"][key], value, f"{path}{key}.")

    known(SCHEMA, yaml.safe_load((CHART / "values.yaml").read_text()))


def test_the_readme_names_only_existing_flags_and_settings():
    text = (CHART / "README.md").read_text()
    prose = "\n".join(text.split("\n```")[::2])
    known = set(flags("serve")) | set(flags("watch")) | {"skip-tests", "set-file"}
    for flag in re.findall(r"`--([a-z0-9-]+)", prose):
        assert flag in known, flag
    for setting in re.findall(r"settings\.([a-z0-9-]+)", text):
        assert setting in SCHEMA["properties"]["settings"]["properties"], setting


def test_the_values_in_the_readme_render():
    blocks = re.findall(r"^```yaml\n(# values: .*?)^```", (CHART / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        Release(yaml.safe_load(block))


def test_the_app_version_is_this_version_of_weir():
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert chart.metadata["appVersion"] == cargo["package"]["version"]
