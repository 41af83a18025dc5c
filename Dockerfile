# The container of the GitHub Action (action.yml) and of the bot, and a command line:
# docker run --rm -v "$PWD:/work" -w /work IMAGE check ADAPTER --base BASE --aligned ALIGNED
#
# linux/amd64: requirements/image.txt locks the wheels of this platform and of Python 3.11.

# python:3.11-slim-bookworm. The digest is the one that public Dockerfiles name; whoever changes it
# looks it up, and never makes one up.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS build
# Where the CPU build of torch is published; the usual build brings gigabytes of CUDA along. The
# hashes decide what is taken, from wherever. pip reads this variable, and its configuration file.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /build
COPY requirements/ requirements/
# pip and hatchling stay in an environment of their own, which the image does not get.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes \
        -r requirements/build.txt \
    && python3 -m venv --without-pip /opt/safety-gate \
    && /opt/build/bin/pip --python /opt/safety-gate/bin/python install --no-cache-dir \
        --only-binary :all: --require-hashes -r requirements/image.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/safety-gate/bin/python install --no-cache-dir --no-deps \
        --no-index dist/*.whl

FROM ${BASE_IMAGE}
# GitHub's runner needs root: it mounts the workspace, which belongs to another user, and this is
# why git has to be told. System-wide, for the runner sets HOME.
# The version of git is the distribution's; a pinned one would vanish with its next fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old \
        /var/log/apt /var/log/*.log \
    && git config --system --add safe.directory '*'
COPY --from=build /opt/safety-gate /opt/safety-gate
# Safe path: no file of the workspace is ever imported. No bytecode: nothing is left in it.
ENV PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="Safety Gate" \
    org.opencontainers.image.description="Decides whether a fine-tuned adapter may be released." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}"
ENTRYPOINT ["/opt/safety-gate/bin/safety-gate"]
CMD ["action"]
