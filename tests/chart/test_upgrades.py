"""`helm upgrade`: fields that Kubernetes does not let change, and pods that must not roll."""

import pytest

from chart import GOOD, Release, values, with_value

CHANGES = {
    "image.tag": "0.3.0",
    "replicas": 5,
    "commonLabels": {"team": "other", "app.kubernetes.io/name": "other"},
    "podLabels": {"tier": "other", "app.kubernetes.io/instance": "other"},
    "settings.max-watches": 5,
    "service.port": 8443,
    "service.headless": False,
    "admin.port": 9999,
    "autoscaling.enabled": True,
    "serviceAccount.create": False,
    "shutdown.graceSeconds": 60,
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("change", CHANGES)
def test_an_upgrade_changes_no_immutable_field(name, change):
    before = Release(values(name))
    after = Release(with_value(values(name), change, CHANGES[change]), is_upgrade=True, revision=2)
    assert before.one("Deployment")["spec"]["selector"] == after.one("Deployment")["spec"]["selector"]
    labels = after.template["metadata"]["labels"]
    assert after.one("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    addresses = [{it["metadata"]["name"]: it["spec"].get("clusterIP") for it in made.all("Service")} for made in (before, after)]
    for service in addresses[0].keys() & addresses[1].keys():
        assert addresses[0][service] == addresses[1][service]


def test_files_that_weir_reloads_roll_no_pod():
    before = Release(values("full"))
    given = with_value(values("full"), "policy.document", {"version": 1, "rules": []})
    given = with_value(given, "auth.apiKeys.keys", [{"name": "other", "sha256": "0" * 64}])
    given = with_value(given, "tls.certManager.dnsNames", ["other.example"])
    given = with_value(given, "grafanaDashboard.annotations", {"grafana_folder": "Other"})
    after = Release(given, is_upgrade=True, revision=2)
    assert before.template == after.template
    assert before.one("ConfigMap", "orders-streams-policy") != after.one("ConfigMap", "orders-streams-policy")


def test_settings_that_weir_reads_once_roll_the_pods():
    before = Release(values("full"))
    after = Release(with_value(values("full"), "settings.max-feeds", 33))
    assert before.template != after.template


def test_an_install_and_an_upgrade_render_the_same():
    for name in GOOD:
        first = Release(values(name), is_install=True, revision=1)
        later = Release(values(name), is_upgrade=True, revision=7)
        assert first.manifests == later.manifests


def test_two_releases_in_one_namespace_are_independent():
    one, other = (Release(values("insecure"), name=name) for name in ("orders", "crm"))
    names = [{(it["kind"], it["metadata"]["name"]) for it in made.manifests} for made in (one, other)]
    assert not names[0] & names[1]
    selector = one.one("Deployment")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= other.template["metadata"]["labels"].items()
