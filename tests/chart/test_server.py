"""The server takes what the chart gives it: `weir serve --check-config` with the container's own
variables, arguments and files."""

import base64
import datetime
import json
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chart import GOOD, WEIR, Release, release, values, with_value


@pytest.fixture(scope="module")
def secrets():
    """What the Secrets hold that the values name, by the folder that each is mounted at."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "weir")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("weir")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    numbers = key.public_key().public_numbers()
    point = {at: base64.urlsafe_b64encode(getattr(numbers, at).to_bytes(32)).rstrip(b"=").decode() for at in "xy"}
    jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", **point}
    return {
        "tls": {"tls.crt": certificate, "tls.key": private},
        "client-ca": {"ca.crt": certificate},
        "jwks": {"jwks.json": json.dumps({"keys": [jwk]})},
        "jwks-ca": {"ca.crt": certificate},
        "api-keys": {"api-keys.yaml": "keys:\n  - {name: billing, sha256: " + "0" * 64 + "}\n"},
        "token-keys": {"token-keys": base64.b64encode(bytes(32)).decode() + "\n"},
        "admin-token": {"token": "a-token-of-some-length-0123456789\n"},
        "mongodb": {"ca.crt": certificate},
    }


def check(made, secrets, folder):
    """Lays the files of the pod into a folder, and has the server check what it was given."""
    volumes = {it["name"]: it for it in made.template["spec"].get("volumes", [])}
    for mount in made.container.get("volumeMounts", []):
        if not mount["mountPath"].startswith("/etc/weir/"):
            continue
        volume = volumes[mount["name"]]
        contents = secrets.get(mount["name"], {})
        for manifest in made.all("ConfigMap"):
            if manifest["metadata"]["name"] == volume.get("configMap", {}).get("name"):
                contents = manifest["data"]
        for file, text in contents.items():
            path = folder / mount["mountPath"].lstrip("/") / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    env = {}
    for it in made.container["env"]:
        value = it.get("value", "mongodb://127.0.0.1:1/?replicaSet=rs0")
        env[it["name"]] = str(folder) + value if value.startswith("/etc/weir/") else value
    arguments = [WEIR, *made.container["args"], "--check-config"]
    return subprocess.run(arguments, capture_output=True, text=True, env=env, cwd=folder)


@pytest.mark.parametrize("name", GOOD)
def test_the_server_takes_what_the_chart_gives_it(name, secrets, tmp_path):
    ran = check(release(name), secrets, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "the settings can be used\n"


def test_the_server_refuses_what_the_chart_can_t_know_is_wrong(secrets, tmp_path):
    made = Release(with_value(values("insecure"), "settings.upstream-grace", "48h"))
    ran = check(made, secrets, tmp_path)
    assert ran.returncode == 64
    assert "--upstream-grace" in ran.stderr
