"""Kubernetes accepts the chart's manifests, and they fit together."""

import re

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from chart import CHART, GOOD, Release, chart, flags, quantity, release, values, with_value
from crds import SPECS

# The oldest version that Chart.yaml allows, and the newest with schemas here.
KUBERNETES = ["1.30", "1.37"]


@pytest.fixture(params=GOOD)
def made(request):
    return release(request.param)


def chooses(selector, labels):
    return selector.items() <= labels.items()


@pytest.mark.parametrize("name", [*GOOD, "minimal"])
def test_helm_lint_finds_nothing(name):
    chart.validate_schema(values(name))
    for version in KUBERNETES:
        report = helm_python.lint(CHART, values(name), strict=True, kube_version=f"v{version}.0")
        # Severity 1 is advice, such as that an icon is recommended.
        assert [it for it in report["messages"] if it["severity"] > 1] == []
        assert report["errors"] == []


def test_the_oldest_tested_kubernetes_is_the_chart_s_minimum():
    assert chart.metadata["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
    assert kubernetes_validate.latest_version().startswith(KUBERNETES[1])


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_accepts_every_manifest(made, version):
    builtin = 0
    for manifest in made.manifests:
        custom = SPECS.get((manifest["apiVersion"], manifest["kind"]))
        if custom:
            jsonschema.validate(manifest["spec"], custom, cls=jsonschema.Draft202012Validator)
            assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
            builtin += 1
    assert builtin >= 5


def test_every_template_is_tested():
    kinds = {it["kind"] for name in GOOD for it in release(name).manifests}
    templates = [path.read_text() for path in (CHART / "templates").rglob("*.yaml")]
    assert kinds == set(re.findall(r"^kind: (\w+)", "\n".join(templates), re.M))


def test_kubernetes_accepts_names_and_labels(made):
    seen = set()
    for manifest in made.manifests:
        metadata = manifest["metadata"]
        identity = (manifest["kind"], metadata["namespace"], metadata["name"])
        assert identity not in seen
        seen.add(identity)
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        for label in metadata["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", label)


@pytest.mark.parametrize("name", ["a" * 53, "weir", "orders", "weir-of-a-release-with-a-name-that-is-long-indeed-0"])
def test_long_names_leave_room_for_suffixes(name):
    made = Release(values("full") | {"nameOverride": "", "fullnameOverride": ""}, name=name)
    for manifest in made.manifests:
        assert len(manifest["metadata"]["name"]) <= 63
    names = [it["metadata"]["name"] for it in made.all("Service")]
    assert len(set(names)) == 3


def test_everything_is_in_the_requested_namespace(made):
    wanted = made.values["namespaceOverride"] or "shop"
    for manifest in made.manifests:
        elsewhere = manifest["metadata"]["name"].endswith("-dashboard") and made.values["grafanaDashboard"]["namespace"]
        assert manifest["metadata"]["namespace"] == (elsewhere or wanted)


def test_services_select_only_the_server_s_pods(made):
    server = made.template["metadata"]["labels"]
    ports = {it["name"]: it["containerPort"] for it in made.container["ports"]}
    assert ports == {"grpc": 50051, "admin": 9090}
    selectors = [it["spec"]["selector"] for it in made.all("Service")]
    selectors += [it["spec"]["selector"]["matchLabels"] for it in made.all("PodDisruptionBudget")]
    selectors += [it["spec"]["podSelector"]["matchLabels"] for it in made.all("NetworkPolicy")]
    selectors.append(made.one("Deployment")["spec"]["selector"]["matchLabels"])
    for spread in made.template["spec"]["topologySpreadConstraints"]:
        selectors.append(spread["labelSelector"]["matchLabels"])
    for selector in selectors:
        assert chooses(selector, server)
        for pod in made.all("Pod"):
            assert not chooses(selector, pod["metadata"]["labels"])
    for service in made.all("Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
            assert port["name"] == port["targetPort"]


def test_the_headless_name_resolves_to_all_pods():
    made = release("full")
    headless = made.one("Service", "orders-streams-headless")["spec"]
    assert headless["clusterIP"] == "None"
    # The name resolves to pods, so a client must use their own port.
    assert [it["port"] for it in headless["ports"]] == [50051]
    without = Release(with_value(values("full"), "service.headless", False))
    assert len(without.all("Service")) == 2
    names = without.one("Certificate")["spec"]["dnsNames"]
    assert not any("headless" in name for name in names)


def test_ports_declare_grpc():
    def protocol(given):
        return Release(given).one("Service", "weir")["spec"]["ports"][0]["appProtocol"]

    assert protocol(values("mesh")) == "grpc"
    assert protocol(values("tls-auth")) == "grpc"
    # A mesh that took this for plain HTTP/2 would terminate TLS itself.
    both = values("tls-auth") | {"mesh": {"enabled": True, "kind": "istio"}}
    assert protocol(both) == "tls"
    assert protocol(with_value(both, "service.appProtocol", "https")) == "https"


def test_the_server_listens_on_the_named_ports(made):
    ports = {it["name"]: it["containerPort"] for it in made.container["ports"]}
    address = made.values["listenAddress"]
    assert made.env["WEIR_LISTEN"]["value"] == f"{address}:{ports['grpc']}"
    assert made.env["WEIR_ADMIN_LISTEN"]["value"] == f"{address}:{ports['admin']}"


def test_every_variable_belongs_to_a_flag_and_occurs_once(made):
    variables = set(flags("serve").values())
    names = [it["name"] for it in made.container["env"]]
    assert len(names) == len(set(names))
    own = {it["name"] for it in made.values["extraEnv"]}
    assert set(names) - own <= variables
    assert "MONGODB_URI" in names
    for it in made.container["env"]:
        assert "valueFrom" in it or isinstance(it["value"], str)
    # Otherwise Kubernetes would add variables for each Service, named WEIR_... for one called weir.
    assert made.template["spec"]["enableServiceLinks"] is False


def test_numbers_arrive_unchanged():
    env = release("full").env
    assert env["WEIR_MAX_WATCHES"]["value"] == "1000000"
    assert release("full").one("HorizontalPodAutoscaler")["spec"]["metrics"][1]["pods"]["target"]["averageValue"] == "2000000"
    assert env["WEIR_OTLP_SAMPLE_RATIO"]["value"] == "0.05"
    policy = release("full").one("ConfigMap", "orders-streams-policy")["data"]["policy.yaml"]
    assert yaml.safe_load(policy) == values("full")["policy"]["document"]
    assert "watches: 100000\n" in policy


def test_a_policy_in_text_form_is_passed_on_unchanged():
    text = "# Ours.\nversion: 1\nrules:\n  - name: one\n    filter: {tenant: 9007199254740993}\n"
    made = Release(with_value(values("tls-auth"), "policy.document", text))
    (config,) = made.all("ConfigMap")
    assert config["data"]["policy.yaml"].rstrip() == text.rstrip()
    assert made.env["WEIR_POLICY_FILE"]["value"] == "/etc/weir/policy/policy.yaml"


def test_exactly_the_named_files_are_mounted(made):
    for pod in made.pods:
        (container,) = pod["spec"]["containers"]
        volumes = {it["name"]: it for it in pod["spec"].get("volumes", [])}
        mounts = {it["name"]: it for it in container.get("volumeMounts", [])}
        assert volumes.keys() == mounts.keys()
        named = [it["value"] for it in container.get("env", []) if it["name"].endswith("_FILE")]
        named += [it for it in container["args"] if it.startswith("/")]
        files = set()
        for name, mount in mounts.items():
            if name == "scratch":
                continue
            # A file mounted by subPath never changes, and Weir waits for changes.
            assert "subPath" not in mount
            assert mount["readOnly"] is True
            source = volumes[name].get("secret") or volumes[name]["configMap"]
            assert source["defaultMode"] == 0o440
            # Without these files a pod must not start: a missing policy is not a lenient one.
            assert "optional" not in source
            assert pod["spec"]["securityContext"]["fsGroup"] == container_group(pod)
            if name != "mongodb":
                files |= {f"{mount['mountPath']}/{it['path']}" for it in source["items"]}
            for manifest in made.all("ConfigMap"):
                if manifest["metadata"]["name"] == source.get("name"):
                    assert {it["key"] for it in source["items"]} <= manifest["data"].keys()
        assert files == set(named)


def container_group(pod):
    return pod["spec"]["securityContext"]["runAsGroup"]


def test_probes_use_plain_text():
    for name in GOOD:
        made = release(name)
        container = made.container
        # MongoDB's availability must never decide whether a pod is killed.
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/livez", "port": "admin"}
        readiness = container["readinessProbe"]
        if made.values["tls"]["enabled"] or made.values["mesh"]["enabled"]:
            assert readiness["httpGet"] == {"path": "/readyz", "port": "admin"}
        else:
            assert readiness["grpc"] == {"port": 50051, "service": "weir.v1.WatchService"}
    http = Release(with_value(values("insecure"), "probes.readiness.kind", "http"))
    assert "httpGet" in http.container["readinessProbe"]
    assert "grpc" not in http.container["readinessProbe"]


def test_a_pod_has_enough_time_to_drain(made):
    pod = made.template["spec"]
    before = made.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = int(made.env["WEIR_SHUTDOWN_GRACE"]["value"].removesuffix("s"))
    # After that MongoDB has 2 s to close cursors: CLOSE_LIMIT in src/app.rs.
    assert pod["terminationGracePeriodSeconds"] > before + grace + 2
    istio = pod_annotations(made).get("proxy.istio.io/config")
    if istio:
        drain = int(yaml.safe_load(istio)["terminationDrainDuration"].removesuffix("s"))
        assert before + grace + 2 < drain <= pod["terminationGracePeriodSeconds"]


def pod_annotations(made):
    return made.template["metadata"]["annotations"]


def test_without_a_pause_there_is_no_hook():
    # Kubernetes before 1.33 refuses a sleep of 0 seconds.
    made = Release(with_value(values("linkerd"), "shutdown.preStopSeconds", 0))
    assert "lifecycle" not in made.container
    assert not any("wait-before-exit" in it for it in pod_annotations(made))


def test_memory_fits_the_container(made):
    limit = quantity(made.container["resources"]["limits"]["memory"])
    assert quantity(made.env["WEIR_MEMORY_LIMIT"]["value"]) <= limit * 3 / 4
    assert "cpu" not in made.container["resources"]["limits"]


def test_pods_pass_the_restricted_standard(made):
    """The Pod Security Standard `restricted`, for all fields that a Pod can set."""
    for pod in made.pods:
        spec = pod["spec"]
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(field)
        assert "initContainers" not in spec
        allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= allowed
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert "sysctls" not in context
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert own.get("privileged", False) is False
            assert own.get("runAsNonRoot", True) is True
            assert own.get("runAsUser", 1) > 0
            assert not any("hostPort" in it for it in container.get("ports", []))
            # Beyond the standard.
            assert own["readOnlyRootFilesystem"] is True
            assert "limits" in container["resources"] and "requests" in container["resources"]
        assert spec["automountServiceAccountToken"] is False
    for account in made.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_image_and_pod_use_the_same_user():
    dockerfile = (CHART.parents[1] / "Dockerfile").read_text()
    user, group = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M).groups()
    context = release("insecure").template["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))


def test_the_image_is_named_by_tag_or_digest():
    assert release("insecure").container["image"] == f"registry.example/weir:{chart.metadata['appVersion']}"
    assert release("full").container["image"] == "registry.example:5000/infra/weir:0.2.0-2"
    assert release("tls-auth").container["image"] == "registry.example/weir@sha256:" + "0" * 64


def test_secrets_are_referenced_and_never_inlined(made):
    assert made.all("Secret") == []
    uri = made.env["MONGODB_URI"]
    assert uri["valueFrom"]["secretKeyRef"]["name"] == "weir-mongodb"
    for manifest in made.all("ConfigMap"):
        for text in manifest["data"].values():
            assert not re.search(r"PRIVATE KEY|mongodb(\+srv)?://|password", text)


def test_the_chart_never_serves_insecurely_by_default(made):
    allowed = "WEIR_ALLOW_INSECURE" in made.env
    said = made.values["insecure"] or made.values["mesh"]["enabled"]
    assert not allowed or said
    assert allowed != ("WEIR_TLS_CERT_FILE" in made.env)
    assert ("WARNING" in made.notes) == made.values["insecure"]


@pytest.mark.parametrize("missing", ["tls", "auth"])
def test_both_encryption_and_authentication_are_required(missing):
    given = {key: value for key, value in values("tls-auth").items() if key != missing}
    with pytest.raises(helm_python.HelmError, match="encryption" if missing == "tls" else "authentication"):
        Release(given)
    # It is enough behind a mesh, which Weir has to be told.
    meshed = Release({**given, "mesh": {"enabled": True, "kind": "other"}})
    assert meshed.env["WEIR_ALLOW_INSECURE"]["value"] == "true"


def test_a_required_client_certificate_counts_as_authentication():
    given = {key: value for key, value in values("tls-auth").items() if key != "auth"}
    given = with_value(given, "tls.clientCa", {"existingSecret": "weir-clients"})
    made = Release(given)
    assert "WEIR_ALLOW_INSECURE" not in made.env
    assert made.env["WEIR_TLS_CLIENT_AUTH"]["value"] == "required"
    with pytest.raises(helm_python.HelmError, match="no authentication"):
        Release(with_value(given, "tls.clientAuth", "optional"))


def test_the_autoscaler_owns_the_number_of_pods():
    made = release("full")
    assert "replicas" not in made.one("Deployment")["spec"]
    scaler = made.one("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == made.one("Deployment")["metadata"]["name"]
    by_cpu, by_watches = scaler["metrics"]
    assert by_cpu["containerResource"]["container"] == made.container["name"]
    assert by_watches["pods"]["metric"]["name"] == "weir_watches"
    without = Release(with_value(values("full"), "autoscaling.enabled", False))
    assert without.one("Deployment")["spec"]["replicas"] == 2
    assert without.all("HorizontalPodAutoscaler") == []


def test_a_single_pod_can_be_drained():
    made = Release(with_value(values("insecure"), "replicas", 1))
    budget = made.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_network_policy_admits_only_whom_it_names():
    made = release("full")
    policy = made.one("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    grpc, admin = policy["ingress"]
    assert [it["port"] for it in grpc["ports"]] == ["grpc"]
    assert grpc["from"][:2] == values("full")["networkPolicy"]["grpcFrom"]
    (pod,) = made.all("Pod")
    assert chooses(grpc["from"][2]["podSelector"]["matchLabels"], pod["metadata"]["labels"])
    assert [it["port"] for it in admin["ports"]] == ["admin"]
    assert admin["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    # An empty `from` would admit everybody.
    assert all(rule["from"] for rule in policy["ingress"])
    out = [sorted(it["port"] for it in rule["ports"]) for rule in policy["egress"]]
    # The key set is a file here, so there is no egress to an issuer.
    assert out == [[53, 53], [27017, 27018], [4317]]
    by_url = Release({**values("tls-auth"), "networkPolicy": {"enabled": True, "grpcFrom": [{"podSelector": {}}]}})
    assert [443] in [[it["port"] for it in rule["ports"]] for rule in by_url.one("NetworkPolicy")["spec"]["egress"]]
    nobody = Release(with_value(values("full"), "networkPolicy.adminFrom", []))
    assert len(nobody.one("NetworkPolicy")["spec"]["ingress"]) == 1


def test_open_metrics_are_meant_only_where_a_network_policy_guards_the_port():
    for guarded, token, meant in [(True, "", True), (True, "t", False), (False, "t", False), (False, "", False)]:
        policy = {"enabled": guarded, "grpcFrom": [{"podSelector": {}}]}
        made = Release({**values("insecure"), "networkPolicy": policy, "admin": {"tokenSecret": token}})
        assert ("WEIR_ALLOW_OPEN_METRICS" in made.env) == meant, (guarded, token)
    istio = Release({**values("mesh"), "networkPolicy": {"enabled": True, "grpcFrom": [{"podSelector": {}}]}})
    assert "WEIR_ALLOW_OPEN_METRICS" not in istio.env


def test_sidecars_reach_each_other_and_their_control_plane():
    policy = release("linkerd").one("NetworkPolicy")["spec"]
    assert [it["port"] for it in policy["ingress"][0]["ports"]] == ["grpc", 4143]
    to = policy["egress"][-1]["to"][0]["namespaceSelector"]["matchLabels"]
    assert to == {"kubernetes.io/metadata.name": "linkerd"}


def test_prometheus_scrapes_the_admin_port_with_its_token():
    made = release("full")
    monitor = made.one("ServiceMonitor")["spec"]
    chosen = [
        it for it in made.all("Service") if chooses(monitor["selector"]["matchLabels"], it["metadata"]["labels"])
    ]
    assert [it["metadata"]["name"] for it in chosen] == ["orders-streams-admin"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [it["name"] for it in chosen[0]["spec"]["ports"]]
    assert monitor["namespaceSelector"]["matchNames"] == [chosen[0]["metadata"]["namespace"]]
    assert endpoint["authorization"]["credentials"] == {"name": "weir-admin-token", "key": "token"}
    assert "WEIR_ADMIN_TOKEN_FILE" in made.env
    without = Release(with_value(values("full"), "admin.tokenSecret", ""))
    assert "authorization" not in without.one("ServiceMonitor")["spec"]["endpoints"][0]


def test_rules_and_dashboard_match_the_files():
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert release("full").one("PrometheusRule")["spec"] == rules
    linked = Release(with_value(values("full"), "prometheusRule.runbookUrl", "https://wiki.example/weir"))
    text = (CHART / "files" / "rules.yaml").read_text().replace("docs/runbook.md", "https://wiki.example/weir")
    assert linked.one("PrometheusRule")["spec"] == yaml.safe_load(text)
    board = release("full").one("ConfigMap", "orders-streams-dashboard")
    assert board["data"]["weir.json"].strip() == (CHART / "files" / "dashboard.json").read_text().strip()
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_certificate_covers_every_name_that_clients_use():
    made = release("full")
    names = made.one("Certificate")["spec"]["dnsNames"]
    for service in ("orders-streams", "orders-streams-headless"):
        for suffix in ("", ".data", ".data.svc", ".data.svc.cluster.local"):
            assert service + suffix in names
    assert "weir.example" in names
    volumes = {it["name"]: it for it in made.template["spec"]["volumes"]}
    assert volumes["tls"]["secret"]["secretName"] == made.one("Certificate")["spec"]["secretName"]


def test_a_mesh_refuses_calls_without_mtls():
    istio = release("mesh")
    authentication = istio.one("PeerAuthentication")["spec"]
    assert authentication["mtls"]["mode"] == "STRICT"
    assert chooses(authentication["selector"]["matchLabels"], istio.template["metadata"]["labels"])
    # Through a sidecar every caller would seem to be local, and would be trusted.
    assert pod_annotations(istio)["traffic.sidecar.istio.io/excludeInboundPorts"] == "9090"
    assert istio.template["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    policy = istio.one("AuthorizationPolicy")["spec"]
    calls, scrapes = policy["rules"]
    assert calls["from"][0]["source"]["principals"] == ["cluster.local/ns/shop/sa/orders"]
    assert calls["to"][0]["operation"]["ports"] == ["50051"]
    assert "from" not in scrapes and scrapes["to"][0]["operation"]["ports"] == ["9090"]
    linkerd = pod_annotations(release("linkerd"))
    assert linkerd["config.linkerd.io/default-inbound-policy"] == "all-authenticated"
    assert linkerd["config.linkerd.io/skip-inbound-ports"] == "9090"
    # As opaque TCP, all watches of a client would go to one pod.
    assert "config.linkerd.io/opaque-ports" not in linkerd
    for kind in ("PeerAuthentication", "AuthorizationPolicy", "VirtualService"):
        assert release("tls-auth").all(kind) == []


def test_a_mesh_does_not_end_watches():
    made = release("mesh")
    (route,) = made.one("VirtualService")["spec"]["http"]
    assert route["timeout"] == "0s"
    destination = route["route"][0]["destination"]
    service = made.one("Service", "weir")
    assert destination["host"] == "weir.shop.svc.cluster.local"
    assert destination["port"]["number"] == service["spec"]["ports"][0]["port"]


def test_helm_test_watches_as_a_client_does():
    for name in ("mesh", "full"):
        made = release(name)
        (pod,) = made.all("Pod")
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        (container,) = pod["spec"]["containers"]
        args = container["args"]
        assert args[:2] == ["watch", "shop.orders"]
        known = flags("watch")
        for flag in (it for it in args if it.startswith("--")):
            assert flag.removeprefix("--") in known
        # It must end, and fail if the server can't serve.
        assert args[args.index("--until") + 1] == "now"
        assert "--no-reconnect" in args
        assert pod["spec"]["activeDeadlineSeconds"] > 0
        assert pod["spec"]["restartPolicy"] == "Never"
        service = made.all("Service")[0]
        host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
        scheme = "https" if made.values["tls"]["enabled"] else "http"
        port = service["spec"]["ports"][0]["port"]
        assert args[args.index("--server") + 1] == f"{scheme}://{host}:{port}"
    assert release("insecure").all("Pod") == []


def test_helm_test_ends_beside_a_sidecar():
    istio, linkerd = (release(name).all("Pod")[0]["metadata"] for name in ("mesh", "linkerd"))
    assert istio["labels"]["sidecar.istio.io/inject"] == "true"
    assert istio["annotations"]["sidecar.istio.io/nativeSidecar"] == "true"
    assert linkerd["annotations"]["linkerd.io/inject"] == "enabled"
    assert linkerd["annotations"]["config.alpha.linkerd.io/proxy-enable-native-sidecar"] == "true"


def test_the_notes_name_only_what_exists(made):
    notes = made.notes
    services = {it["metadata"]["name"]: it for it in made.all("Service")}
    forwards = re.findall(r"--namespace (\S+) port-forward service/(\S+) (\d+):(\d+)", notes)
    assert len(forwards) == 2
    for namespace, name, local, port in forwards:
        service = services[name]
        assert service["metadata"]["namespace"] == namespace
        assert int(port) in [it["port"] for it in service["spec"]["ports"]]
        assert f"127.0.0.1:{local}" in notes
    assert f"deployment/{made.one('Deployment')['metadata']['name']}\n" in notes
    proto = (CHART.parents[1] / "proto/weir/v1/watch.proto").read_text()
    (call,) = re.findall(r"^ +grpcurl (.*)$", notes, re.M)
    assert re.search(r" weir\.v1\.WatchService/GetServerInfo$", call) and "rpc GetServerInfo(" in proto
    assert ("-plaintext" in call) != made.values["tls"]["enabled"]
    assert ("-cacert" in call) == made.values["tls"]["enabled"]
    for setting in re.findall(r"settings\.([a-z-]+)", notes):
        assert setting in flags("serve")
    assert "\n\n\n" not in notes and "<no value>" not in notes
    assert ("There is no policy" in notes) != ("WEIR_POLICY_FILE" in made.env)
