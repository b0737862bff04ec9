# An image that trains, in two targets: `cpu`, and `cuda` for a machine with an NVIDIA driver.
#
#   docker build --target cpu --tag dreamerv2-lightning:cpu .
#
# docs/containers.md says how to use them. Both targets have the same base. On PyPI, torch for Linux
# brings the CUDA libraries that it was built with as packages of their own: a base image with
# NVIDIA's runtime would hold them twice, in a version of its own. The driver is the host's.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS base
# MuJoCo draws with these where there is no screen. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgl1 \
    && rm -rf /var/lib/apt/lists/*
# A volume that is mounted on an empty folder for the first time takes over the folder's owner.
RUN useradd --create-home --uid 1000 dreamer \
    && install --directory --owner=dreamer --group=dreamer /home/dreamer/runs
ENV PATH=/opt/dreamer/bin:$PATH PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/dreamer

# Everything but torch, each file checked by its hash.
FROM base AS locked
COPY requirements.lock /build/
RUN pip install --require-hashes --no-deps --requirement /build/requirements.lock

# The package itself, built with the locked setuptools.
FROM locked AS wheel
WORKDIR /build
COPY pyproject.toml MANIFEST.in README.md LICENSE requirements*.txt ./
COPY conf conf
COPY dreamer dreamer
COPY experiments experiments
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# torch comes before the package, so that a changed line of code does not download it again.
FROM locked AS cpu
COPY requirements.txt /build/
# The index of torch's CPU builds, as the installation page of pytorch.org names it. Without it, a
# PC gets the CUDA build, which works without a GPU but takes several gigabytes more.
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
    --constraint /build/requirements.txt torch
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
USER 1000:1000
WORKDIR /home/dreamer
VOLUME ["/home/dreamer/runs"]
ENTRYPOINT ["dreamer-train"]
CMD ["--help"]

FROM locked AS cuda
COPY requirements.txt /build/
RUN pip install --constraint /build/requirements.txt torch
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps /wheels/*.whl
# What the container toolkit of NVIDIA lets in: the driver for computing, and EGL for MuJoCo.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics
USER 1000:1000
WORKDIR /home/dreamer
VOLUME ["/home/dreamer/runs"]
ENTRYPOINT ["dreamer-train"]
CMD ["--help"]
