# OmniSIFT on a CPU; docs/quickstart.md has the commands, and the build arguments for CUDA.
#   docker build -t omnisift .
#   docker run --rm -v "$PWD:/data" omnisift ask clip.mp4 "What colour is the circle?"
ARG BASE=debian:12.11-slim

FROM ${BASE} AS build
# PyTorch's builds for a CPU. PyPI has those for CUDA: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# For example train, which adds `omnisift train`.
ARG EXTRAS=eval
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python3 -m venv /opt/omnisift \
 && /opt/omnisift/bin/pip install --no-cache-dir --constraint constraints.txt --extra-index-url ${TORCH_INDEX} ".[${EXTRAS}]"

FROM ${BASE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 omnisift
COPY --from=build /opt/omnisift /opt/omnisift
ENV PATH=/opt/omnisift/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /data
USER omnisift
ENTRYPOINT ["omnisift"]
CMD ["--help"]
