"""Volumes of a pod as directories on this machine.

In: the pod, a `Lookup` for secrets and config maps, a way to get service account tokens. Out: volume name -> directory,
and the `PathMap` of a container's mounts. `ConfigError` when a volume cannot be made (yet); its message says which.
Config maps and secrets are written once, as the pod starts; files of the downward API follow the pod.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supernode.local.agent.environment import ConfigError, Lookup, data_of, field_value, resource_value
from supernode.local.agent.substitute import PathMap, expand_references

Object = dict[str, Any]
# (service account, audience or "", seconds) -> token
TokenSource = Callable[[str, str, int], Awaitable[str]]

SERVICE_ACCOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the kernel's directory for memory-backed files
# A container runtime's default /dev/shm has 64 MiB, too little for tensors: an ordinary directory is better then.
_SHARED_MEMORY_MINIMUM: Final = 1 << 30


@dataclass(frozen=True)
class VolumeContext:
    """What making a pod's volumes needs from outside.

    Attributes:
        directory: the pod's own directory.
        memory_directory: the pod's directory for volumes in memory.
        lookup: finds secrets and config maps.
        token: makes service account tokens.
        rewrite: applied to text of config maps (names of pods become addresses).
        allocatable: the node's allocatable resources, for downward API files.
    """

    directory: Path
    memory_directory: Path
    lookup: Lookup
    token: TokenSource
    rewrite: Callable[[str], str]
    allocatable: Mapping[str, str]


def memory_root(fallback: Path, name: str) -> Path:
    """Where memory-backed volumes go: /dev/shm if it is there and large enough, else below `fallback`."""
    try:
        figures = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return fallback / "m"
    large = figures.f_frsize * figures.f_blocks >= _SHARED_MEMORY_MINIMUM
    return _SHARED_MEMORY / name if large and os.access(_SHARED_MEMORY, os.W_OK) else fallback / "m"


async def make_volumes(pod: Object, context: VolumeContext) -> dict[str, Path]:
    """Make every volume of the pod that is not there yet."""
    made: dict[str, Path] = {}
    for index, volume in enumerate(pod["spec"].get("volumes") or []):
        made[volume["name"]] = await _make(pod, volume, index, context)
    return made


async def refresh_volumes(pod: Object, context: VolumeContext) -> None:
    """Write the files again that tell of the pod itself: its labels and annotations may have changed."""
    for index, volume in enumerate(pod["spec"].get("volumes") or []):
        if volume.get("downwardAPI") is not None:
            files = await _files(pod, volume, context)
            await asyncio.to_thread(_write_files, context.directory / f"v{index}", files)


async def _make(pod: Object, volume: Object, index: int, context: VolumeContext) -> Path:
    if (path := (volume.get("hostPath") or {}).get("path")) is not None:
        return Path(path)
    if (empty := volume.get("emptyDir")) is not None:
        root = context.memory_directory if empty.get("medium") == "Memory" else context.directory
        directory = root / f"v{index}"
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        return directory
    files = await _files(pod, volume, context)
    directory = context.directory / f"v{index}"
    await asyncio.to_thread(_write_files, directory, files)
    return directory


# One file of a volume: (relative path, content, mode).
_File = tuple[str, bytes, int]


async def _files(pod: Object, volume: Object, context: VolumeContext) -> list[_File]:
    for key in ("configMap", "secret", "downwardAPI", "projected"):
        source = volume.get(key)
        if source is None:
            continue
        mode = source.get("defaultMode") or 0o644
        if key != "projected":
            return await _source_files(pod, key, source, mode, context)
        files: list[_File] = []
        for entry in source.get("sources") or []:
            for kind, projection in entry.items():
                files += await _source_files(pod, kind, projection or {}, mode, context)
        return files
    kinds = ", ".join(sorted(set(volume) - {"name"})) or "nothing"
    raise ConfigError(
        f'volume "{volume["name"]}" is of a kind that the local cluster does not have ({kinds}); '
        "it has emptyDir, configMap, secret, downwardAPI, projected and hostPath"
    )


async def _source_files(pod: Object, kind: str, source: Object, mode: int, context: VolumeContext) -> list[_File]:
    if kind in ("configMap", "secret"):
        return await _object_files(pod, kind, source, mode, context)
    if kind == "downwardAPI":
        files = []
        for item in source.get("items") or []:
            if field := item.get("fieldRef"):
                text = field_value(pod, field["fieldPath"])
            else:
                text = resource_value(pod, item["resourceFieldRef"], "", context.allocatable)
            files.append((item["path"], text.encode(), item.get("mode") or mode))
        return files
    if kind == "serviceAccountToken":
        account = pod["spec"].get("serviceAccountName") or "default"
        seconds = int(source.get("expirationSeconds") or 3600)
        return [(source["path"], (await context.token(account, source.get("audience") or "", seconds)).encode(), 0o600)]
    raise ConfigError(f"unsupported projection: {kind}")


async def _object_files(pod: Object, kind: str, source: Object, mode: int, context: VolumeContext) -> list[_File]:
    kind_name = "ConfigMap" if kind == "configMap" else "Secret"
    name = source.get("name") or source.get("secretName")
    obj = await context.lookup(kind_name, str(name))
    if obj is None:
        if source.get("optional"):
            return []
        raise ConfigError(f'{kind_name.lower()} "{name}" not found')
    data = data_of(obj)
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    files = []
    for item in items:
        content = data.get(item["key"])
        if content is None:
            if source.get("optional"):
                continue
            namespace = pod["metadata"]["namespace"]
            raise ConfigError(f"references non-existent {kind_name.lower()} key: {item['key']} ({namespace}/{name})")
        if kind == "configMap":
            content = _rewritten(content, context.rewrite)
        files.append((item["path"], content, item.get("mode") or mode))
    return files


def _rewritten(content: bytes, rewrite: Callable[[str], str]) -> bytes:
    try:
        return rewrite(content.decode()).encode()
    except UnicodeDecodeError:
        return content


def _write_files(directory: Path, files: list[_File]) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = directory.resolve()
    for relative, content, mode in files:
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise ConfigError(f"path {relative!r} leaves its volume")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Put in place whole: whoever reads the old file meanwhile finds it complete.
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600)
        new.write_bytes(content)
        # Others on this machine see none of it: the directories above are ours alone.
        new.chmod(mode & 0o777)
        new.replace(path)


def mounts_of(container: Object, volumes: Mapping[str, Path], variables: Mapping[str, str]) -> dict[str, str]:
    """Mount path -> real path of a container's volumeMounts; makes the directories of `subPath`s."""
    found = {}
    for mount in container.get("volumeMounts") or []:
        directory = volumes.get(mount["name"])
        if directory is None:
            raise ConfigError(f'container "{container["name"]}" mounts volume "{mount["name"]}", which the pod lacks')
        part = mount.get("subPath") or expand_references(mount.get("subPathExpr") or "", variables)
        if part:
            real = (directory / part).resolve()
            if not real.is_relative_to(directory.resolve()):
                raise ConfigError(f"subPath {part!r} leaves its volume")
            if not real.exists():
                real.mkdir(mode=0o700, parents=True)
            directory = real
        found[mount["mountPath"]] = str(directory)
    return found


def path_map(mounts: Mapping[str, str], termination_path: str, termination_file: Path) -> PathMap:
    """The container's whole path map: its mounts and the file for its termination message."""
    return PathMap({**mounts, termination_path: str(termination_file)})


def remove(directory: Path) -> None:
    """Remove a pod's directory, whatever modes its files have."""
    if not directory.exists():
        return
    for parent, _, _ in os.walk(directory):
        if not Path(parent).is_symlink():
            Path(parent).chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
