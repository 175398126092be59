# syntax=docker/dockerfile:1

# Weir's image: the one binary, in a base without shell or package manager. BuildKit builds it:
#
#   docker build --build-arg VERSION=0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" -t weir .
#
# The base of the build is pinned by version. That of the image is not: "nonroot" moves with each update of
# Debian 12, which brings its security fixes to whoever builds anew. Who publishes an image should pin the
# digests of both, which name one build of them for good: rust:1.95.0-slim-bookworm@sha256:...

FROM rust:1.95.0-slim-bookworm AS build

# Puts the list of dependencies into the binary, for scanners of images to read.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install cargo-auditable --version 0.7.7 --locked

WORKDIR /weir
# .dockerignore says what there is to copy.
COPY . .
# The caches are not part of the image, so the binary is taken out of them. Symbols stay, for backtraces;
# lines, which are four fifths of the binary (116 MB against 25), do not.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/weir/target \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo auditable build --release --locked --bin weir \
    && install -D target/release/weir /out/weir

# glibc of the same Debian as above, the certificates of public authorities, and a user: nothing else.
FROM gcr.io/distroless/cc-debian12:nonroot

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="weir" \
      org.opencontainers.image.description="Typed, ordered, resumable streams of MongoDB's changes over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /out/weir /usr/local/bin/weir
COPY LICENSE /usr/share/doc/weir/LICENSE

# By number, as Kubernetes can't tell whether a name is root's.
USER 65532:65532
# gRPC, and the admin port. Weir listens on loopback unless --listen and --admin-listen say otherwise.
EXPOSE 50051 9090
# Weir drains its streams on it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/weir"]
CMD ["serve"]
