"""What a cluster provides for the chart's pods: Secrets, files and a database."""

import base64
import datetime
import hashlib
import ipaddress
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chart import WEIR

# Its SHA-256 is in ci/full-values.yaml.
API_KEY = "weir_an-api-key-of-the-tests-of-the-chart-0123456789"
ADMIN_TOKEN = "an-admin-token-of-the-tests-of-the-chart"

# How long a process may take to start on a busy machine, in seconds.
PATIENCE = 60


class Authority:
    """Signs certificates."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the chart's tests")])
        ca = x509.BasicConstraints(ca=True, path_length=0)
        self.pem = self._sign(self.name, self.key, [(ca, True)]).decode()

    def _sign(self, subject, key, extensions):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=30))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def secret(self, usage):
        """A Secret in cert-manager's form."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("weir.example")]
        certificate = self._sign(
            x509.Name([]),
            key,
            [(x509.SubjectAlternativeName(names), True), (x509.ExtendedKeyUsage([usage]), False)],
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"tls.crt": certificate.decode(), "tls.key": private.decode(), "ca.crt": self.pem}

    def jwks(self):
        numbers = self.key.public_key().public_numbers()
        point = {at: base64.urlsafe_b64encode(getattr(numbers, at).to_bytes(32)) for at in "xy"}
        point = {at: it.rstrip(b"=").decode() for at, it in point.items()}
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", **point}
        return json.dumps({"keys": [key]})


def make_secrets():
    """The contents of the Secrets that the values in ci/ name."""
    authority = Authority()
    api_keys = "keys:\n  - {name: billing, sha256: %s}\n" % ("0" * 64)
    return {
        "weir-tls": authority.secret(ExtendedKeyUsageOID.SERVER_AUTH),
        "orders-streams-tls": authority.secret(ExtendedKeyUsageOID.SERVER_AUTH),
        "weir-client-ca": {"ca.crt": authority.pem, "tls.key": "not for Weir"},
        "weir-jwks": {"jwks.json": authority.jwks()},
        "weir-api-keys": {"api-keys.yaml": api_keys},
        "weir-token-keys": {"token-keys": base64.b64encode(hashlib.sha256(b"a token key of the tests").digest()).decode() + "\n"},
        "weir-admin-token": {"token": ADMIN_TOKEN + "\n"},
        "weir-mongodb-tls": {"ca.crt": authority.pem},
        "weir-test-key": {"api-key": API_KEY + "\n"},
    }


def lay(made, pod, secrets, folder):
    """Writes a pod's files below `folder`, as the kubelet does below /."""
    (container,) = pod["spec"]["containers"]
    volumes = {it["name"]: it for it in pod["spec"].get("volumes", [])}
    configs = {it["metadata"]["name"]: it["data"] for it in made.all("ConfigMap")}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        if "secret" in volume:
            source, contents = volume["secret"], secrets[volume["secret"]["secretName"]]
        elif "configMap" in volume:
            source, contents = volume["configMap"], configs[volume["configMap"]["name"]]
        else:
            continue
        into = folder / mount["mountPath"].lstrip("/")
        into.mkdir(parents=True, exist_ok=True)
        keys = [(key, key) for key in contents]
        for key, path in [(it["key"], it["path"]) for it in source.get("items", [])] or keys:
            (into / path).write_text(contents[key])


def below(folder, text):
    return f"{folder}{text}" if text.startswith("/etc/weir/") else text


def environment(made, folder, **other):
    """The server's variables, with paths below `folder` and with replacements."""
    env = {it["name"]: below(folder, it.get("value", "")) for it in made.container["env"]}
    return {**env, "MONGODB_URI": "mongodb://127.0.0.1:1/?replicaSet=rs0", **other}


def until(what, look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {PATIENCE} s")


@contextmanager
def process(arguments, log, **options):
    with open(log, "wb") as output:
        running = subprocess.Popen(arguments, stdout=output, stderr=output, **options)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


@contextmanager
def database(folder):
    """Starts a database and yields its connection string."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "secantusd.toml"
    config.write_text("")
    arguments = [
        Path(sys.executable).parent / "secantusd-py", "--config", config, "--host", "127.0.0.1",
        "--port", str(port), "--storage-path", folder / "data", "--noop-heartbeat-seconds", "1",
    ]  # fmt: skip
    log = folder / "database.log"
    with process(arguments, log) as running:

        def listens():
            assert running.poll() is None, log.read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until("the database", listens)
        yield f"mongodb://127.0.0.1:{port}/?directConnection=true"


@contextmanager
def server(made, secrets, folder, uri):
    """Starts the server as the chart's pod does, on free loopback ports; yields its process and addresses."""
    lay(made, made.template, secrets, folder)
    free = {"WEIR_LISTEN": "127.0.0.1:0", "WEIR_ADMIN_LISTEN": "127.0.0.1:0"}
    env = environment(made, folder, MONGODB_URI=uri, **free)
    log = folder / "weir.log"
    with process([WEIR, *made.container["args"]], log, env=env, cwd=folder) as running:

        def listening():
            assert running.poll() is None, log.read_text()
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
            return next((it for it in lines if it["message"] == "listening"), None)

        said = until("the server", listening)
        yield running, said["grpc"], said["admin"]
