#!/usr/bin/env bash
# Builds Supernode's image and loads it into the nodes of a kind cluster.
#
#     kind/load-image.sh [CLUSTER]        CLUSTER: name of the kind cluster, default "supernode"
#
# IMAGE overrides the image's name, EXTRAS what is in it (see operator/Dockerfile).
set -euo pipefail

cluster="${1:-supernode}"
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' "${root}/pyproject.toml" | head -n 1)"
image="${IMAGE:-supernode:${version}}"

for tool in docker kind; do
  if ! command -v "${tool}" >/dev/null; then
    echo "load-image: ${tool} is not installed; without Docker, 'supernode local up' gives a cluster of processes" >&2
    exit 1
  fi
done
if ! kind get clusters 2>/dev/null | grep -Fxq -- "${cluster}"; then
  echo "load-image: no kind cluster '${cluster}'; make it with:" >&2
  echo "  kind create cluster --name ${cluster} --config ${root}/kind/super-nodes.yaml" >&2
  exit 1
fi

arguments=(--file "${root}/operator/Dockerfile" --tag "${image}")
if [[ -n "${EXTRAS+set}" ]]; then
  arguments+=(--build-arg "EXTRAS=${EXTRAS}")
fi
docker build "${arguments[@]}" "${root}"
kind load docker-image "${image}" --name "${cluster}"
echo "loaded ${image} into kind cluster ${cluster}"
