"""Tests of the image that need no build."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from chart import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    ran = subprocess.run([hadolint, "--failure-threshold", "style", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def context(folder):
    """Copies the files of the repository that .dockerignore lets in: those it names after `*`."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines[0] == "*"
    for line in lines[1:]:
        assert re.fullmatch(r"![A-Za-z.]+", line), line
        path = ROOT / line[1:]
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / path.name)
    return {line[1:] for line in lines[1:]}


def test_the_build_context_is_complete_and_minimal(folder):
    entries = context(folder)

    def said(*command):
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    # As in a build, this looks for every target in the manifest, and the lock file must match.
    # Crates for other systems need not exist here.
    host = re.search(r"^host: (.*)$", said("rustc", "-vV"), re.M)[1]
    said("cargo", "fetch", "--locked", "--target", host)
    metadata = said("cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1")
    targets = json.loads(metadata)["packages"][0]["targets"]
    assert "weir" in [it["name"] for it in targets if "bin" in it["kind"]]
    # Files that are compiled in must exist too, except for tests, which are not in the image.
    for file in folder.joinpath("src").rglob("*.rs"):
        if "tests" in file.with_suffix("").parts:
            continue
        for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', file.read_text()):
            assert (file.parent / included).exists(), f"{file} includes {included}"
    for copied in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.M):
        assert copied == "." or copied in entries
    assert not entries & {".git", ".venv", "target", "tests", "helm", "shared"}


def test_base_images_are_pinned_and_use_one_debian():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(bases) == 2
    build, runtime = bases
    rust = re.fullmatch(r"rust:(\d+\.\d+)\.\d+-slim-bookworm", build)
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert tuple(map(int, rust[1].split("."))) >= tuple(map(int, cargo["package"]["rust-version"].split(".")))
    # Bookworm is Debian 12: its glibc must not be older than the one that the build links against.
    assert runtime == "gcr.io/distroless/cc-debian12:nonroot"


def test_the_image_runs_the_server_as_a_numeric_user_and_stops_on_sigterm():
    assert re.search(r"^USER [1-9]\d+:[1-9]\d+$", DOCKERFILE, re.M)
    assert re.search(r"^STOPSIGNAL SIGTERM$", DOCKERFILE, re.M)
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[1])
    assert re.search(rf"^COPY --from=build \S+ {entry[0]}$", DOCKERFILE, re.M)
    assert json.loads(re.search(r"^CMD (.*)$", DOCKERFILE, re.M)[1]) == ["serve"]
    # With the lock file, and with the list of dependencies in the binary.
    assert re.search(r"cargo auditable build --release --locked", DOCKERFILE)
