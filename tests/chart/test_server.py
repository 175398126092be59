"""The server accepts the chart's settings, and the chart's probes and test pod work with it."""

import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from chart import GOOD, WEIR, Release, release, values, with_value
from pods import ADMIN_TOKEN, PATIENCE, below, database, environment, lay, make_secrets, server, until


@pytest.fixture(scope="module")
def secrets():
    return make_secrets()


@pytest.fixture(scope="module")
def uri():
    with tempfile.TemporaryDirectory() as folder, database(Path(folder)) as uri:
        yield uri


def check(made, secrets, folder):
    """Runs the server's own check of the pod's settings."""
    lay(made, made.template, secrets, folder)
    arguments = [WEIR, *made.container["args"], "--check-config"]
    env = environment(made, folder)
    return subprocess.run(arguments, capture_output=True, text=True, env=env, cwd=folder)


@pytest.mark.parametrize("name", GOOD)
def test_the_server_accepts_the_chart_s_settings(name, secrets, folder):
    ran = check(release(name), secrets, folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "the settings can be used\n"
    # The values of the others leave /metrics to every pod, and that is all there is to warn of.
    guarded = name in ("full", "linkerd")
    warnings = [line for line in ran.stderr.splitlines() if "probably not meant" in line]
    assert len(warnings) == (not guarded), ran.stderr
    assert all('"--admin-listen"' in line for line in warnings), ran.stderr


def test_the_server_refuses_errors_that_the_chart_cannot_detect(secrets, folder):
    made = Release(with_value(values("insecure"), "settings.upstream-grace", "48h"))
    ran = check(made, secrets, folder)
    assert ran.returncode == 64
    assert "--upstream-grace" in ran.stderr


def asks(probe, grpc, admin):
    """Probes as a kubelet does."""
    if "httpGet" in probe:
        try:
            with urllib.request.urlopen(f"http://{admin}{probe['httpGet']['path']}", timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False
    call = f"http://{grpc}/grpc.health.v1.Health/Check"
    data = '{"service": "%s"}' % probe["grpc"]["service"]
    buf = Path(sys.executable).parent / "buf"
    arguments = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", data, call]
    ran = subprocess.run(arguments, capture_output=True, text=True)
    return ran.returncode == 0 and '"SERVING"' in ran.stdout


def try_out(made, secrets, folder, grpc):
    """Runs the test pod of `helm test`."""
    (pod,) = made.all("Pod")
    (container,) = pod["spec"]["containers"]
    lay(made, pod, secrets, folder)
    arguments = [below(folder, it) for it in container["args"]]
    at = arguments.index("--server") + 1
    arguments[at] = arguments[at].split("://")[0] + "://" + grpc
    limit = pod["spec"]["activeDeadlineSeconds"]
    return subprocess.run([WEIR, *arguments], capture_output=True, text=True, env={}, timeout=limit)


@pytest.mark.parametrize("name", ["insecure", "mesh", "full"])
def test_probes_and_helm_test_pass_on_the_chart_s_server(name, secrets, uri, folder):
    made = Release(with_value(values(name), "test.scope", "shop.orders"))
    with server(made, secrets, folder, uri) as (running, grpc, admin):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            until(probe, lambda: asks(made.container[probe], grpc, admin))
        tried = try_out(made, secrets, folder / "test", grpc)
        assert tried.returncode == 0, tried.stderr
        monitor = made.all("ServiceMonitor")
        if monitor:
            assert not asks({"httpGet": {"path": "/metrics"}}, grpc, admin)
            request = urllib.request.Request(f"http://{admin}/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert b"weir_watches{" in answer.read()
        running.send_signal(signal.SIGTERM)
        grace = made.template["spec"]["terminationGracePeriodSeconds"]
        assert running.wait(timeout=grace) == 0


def test_a_server_without_mongodb_is_live_and_not_ready(secrets, folder):
    made = release("insecure")
    away = "mongodb://127.0.0.1:1/?directConnection=true"
    with server(made, secrets, folder, away) as (_, grpc, admin):
        assert asks(made.container["startupProbe"], grpc, admin)
        assert asks(made.container["livenessProbe"], grpc, admin)
        assert not asks(made.container["readinessProbe"], grpc, admin)


def test_helm_test_fails_where_the_server_can_t_serve(secrets, uri, folder):
    made = Release(with_value(values("insecure"), "test.scope", "shop.orders"))
    away = "mongodb://127.0.0.1:1/?directConnection=true"
    with server(made, secrets, folder, away) as (_, grpc, _):
        assert try_out(made, secrets, folder / "test", grpc).returncode == 1
    # Nothing listens there any more.
    assert try_out(made, secrets, folder / "test", grpc).returncode == 1
    assert PATIENCE < made.all("Pod")[0]["spec"]["activeDeadlineSeconds"]
