# syntax=docker/dockerfile:1

# Weir's image: one binary, on a base without shell or package manager. Build it with BuildKit:
#
#   docker build --build-arg VERSION=0.2.0 --build-arg REVISION="$(git rev-parse HEAD)" -t weir .
#
# The build base is pinned by version. The image base is not: the tag "nonroot" moves with each update of
# Debian 12, so that a new build has its security fixes. Before you publish an image, pin the
# digests of both, which never change: rust:1.95.0-slim-bookworm@sha256:...

FROM rust:1.95.0-slim-bookworm AS build

# Embeds the list of dependencies in the binary, for image scanners.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install cargo-auditable --version 0.7.7 --locked

WORKDIR /weir
# .dockerignore limits what is copied.
COPY . .
# The caches are not part of the image, so the binary is copied out of them. Symbols stay, for backtraces;
# line tables, which are four fifths of the binary (147 MB instead of 33), do not.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/weir/target \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo auditable build --release --locked --bin weir \
    && install -D target/release/weir /out/weir

# Only the glibc of the same Debian as above, the certificates of public authorities, and a user.
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

# By number, because Kubernetes cannot tell whether a user name is root.
USER 65532:65532
# gRPC, and the admin port. Weir listens on loopback unless --listen and --admin-listen say otherwise.
EXPOSE 50051 9090
# Weir drains its streams on this signal.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/weir"]
CMD ["serve"]
