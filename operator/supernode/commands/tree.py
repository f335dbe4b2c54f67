"""`supernode tree [GROUP]`: the wiring as a picture in ASCII, with the jobs in it.

A line per domain and node; a character per device: a letter for the job that holds it, `.` for a free one, `x` for one
that no worker can have now. Below it the letters are explained.
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Sequence

from supernode.cluster.assignment import indices_text
from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, JOBS, NODES, POOLS, Json
from supernode.commands.figures import count
from supernode.commands.picture import NodeView, Picture, picture
from supernode.commands.reading import add_options, answer, list_all, list_allowed, unknown
from supernode.commands.terminal import ROTATION, Colour, Mark, Piece, Sheet
from supernode.errors import NotFoundError

_LETTERS = string.ascii_letters
_MANY = "+"  # for jobs beyond the alphabet


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("group", metavar="GROUP", nargs="?", help="name of the SuperNodeGroup (default: all)")
    parser.add_argument("--level", metavar="LEVEL", help="stop at this level, such as supernode; default: the nodes")
    add_options(parser, namespaced=False)


def run(args: argparse.Namespace) -> int:
    """Read and show."""

    async def gather(client: Client) -> Json:
        groups = await list_all(client, GROUPS)
        names = [group["metadata"]["name"] for group in groups]
        if args.group and args.group not in names:
            raise NotFoundError(unknown("group", args.group, names), status=404)
        pools = await list_allowed(client, POOLS)
        jobs = await list_allowed(client, JOBS)
        seen = picture(await list_all(client, NODES), pools or [], groups, jobs or [])
        invalid = [name for name in names if name not in seen.groups and args.group in (None, name)]
        wanted = [args.group] if args.group else sorted(seen.groups)
        return facts(seen, [name for name in wanted if name in seen.groups], level=args.level) | {"invalid": invalid}

    return answer(args, gather, render)


def facts(seen: Picture, names: Sequence[str], *, level: str | None = None) -> Json:
    """The groups as nested values: `children` of a group or domain are domains, of the innermost domain nodes.

    Raises:
        NotFoundError: no group of these has such a level.
    """
    known = [spec.name for name in names for spec in seen.groups[name].spec.levels]
    if level is not None and names and level not in (*known, "node"):
        raise NotFoundError(unknown("level", level, [*dict.fromkeys(known), "node"]), status=404)
    return {"groups": [_group(seen, name, level) for name in names]}


def _group(seen: Picture, name: str, level: str | None) -> Json:
    specs = seen.groups[name].spec.levels
    members = [view for view in seen.nodes if name in view.domains]
    wired = [view for view in members if all(view.domains[name])]
    depth = next((index + 1 for index, spec in enumerate(specs) if spec.name == level), None)
    return {
        "name": name,
        "levels": [
            {"name": spec.name, "bandwidthGBps": spec.bandwidth_gbps, "latencyMicroseconds": spec.latency_microseconds}
            for spec in specs
        ],
        **_sums(wired),
        "children": _children(wired, name, [spec.name for spec in specs], 0, depth),
        "unlabelled": [
            {"node": view.name, "missing": specs[view.domains[name].index(None)].node_label}
            for view in members
            if not all(view.domains[name]) and None in view.domains[name]
        ],
    }


def _children(
    views: Sequence[NodeView], group: str, levels: Sequence[str], depth: int, until: int | None
) -> list[Json]:
    if depth == until:
        return []
    if depth == len(levels):
        return [_node(view) for view in views]
    inside: dict[str, list[NodeView]] = {}
    for view in views:
        inside.setdefault(view.domains[group][depth] or "", []).append(view)
    return [
        {
            "level": levels[depth],
            "name": domain,
            **_sums(members),
            "children": _children(members, group, levels, depth + 1, until),
        }
        for domain, members in sorted(inside.items())
    ]


def _sums(views: Sequence[NodeView]) -> Json:
    jobs = sorted({holder.job for view in views for holder in view.holders.values()})
    return {
        "nodes": len(views),
        "devices": sum(view.devices for view in views),
        "free": sum(view.free for view in views),
        "jobs": jobs,
    }


def _node(view: NodeView) -> Json:
    ranks: dict[str, list[int]] = {}
    for holder in view.holders.values():
        ranks.setdefault(holder.job, []).append(holder.rank)
    return {
        "level": "node",
        "name": view.name,
        "pool": view.pool,
        "usable": view.usable,
        "problem": view.problem,
        "devices": view.devices,
        "free": view.free,
        "holders": {str(index): holder.job for index, holder in view.holders.items()},
        "jobs": [{"job": job, "ranks": sorted(set(found))} for job, found in sorted(ranks.items())],
    }


def render(found: Json, sheet: Sheet, now: float) -> None:
    """The picture."""
    del now
    for name in found.get("invalid", []):
        sheet.line(Mark(name, Colour.BOLD), " is not valid: `kubectl describe sng` says why")
    if not found["groups"] and not found.get("invalid"):
        sheet.line("there are no groups: a SuperNodeGroup says how nodes are wired")
    jobs = list(dict.fromkeys(job for group in found["groups"] for job in group["jobs"]))
    legend = {job: _LETTERS[index] if index < len(_LETTERS) else _MANY for index, job in enumerate(jobs)}
    colours = {job: ROTATION[index % len(ROTATION)] for index, job in enumerate(jobs)}
    for group in found["groups"]:
        sheet.blank()
        links = ", ".join(
            f"{level['name']} {level['bandwidthGBps']:g} GB/s {level['latencyMicroseconds']:g} us"
            for level in group["levels"]
        )
        sheet.line(Mark(group["name"], Colour.BOLD), f"  {_numbers(group)}  ({links})")
        _branches(group["children"], "", sheet, legend, colours)
        for node in group["unlabelled"]:
            sheet.line(Mark("not wired in: ", Colour.RED), f"{node['node']} lacks the label {node['missing']}")
    if jobs:
        sheet.blank()
        for job in jobs:
            sheet.line(Mark(legend[job], colours[job]), f"  {job}")
    if found["groups"]:
        sheet.line(".  free", "   x  not to be had now")


def _branches(
    children: Sequence[Json], stem: str, sheet: Sheet, legend: dict[str, str], colours: dict[str, Colour]
) -> None:
    names = [child["name"] if child["level"] == "node" else f"{child['level']} {child['name']}" for child in children]
    from_left = max((len(name) for name in names), default=0)
    for index, (child, name) in enumerate(zip(children, names, strict=True)):
        last = index == len(children) - 1
        fork = "`-- " if last else "|-- "
        if child["level"] == "node":
            room = " " * (from_left - len(name) + 2)
            sheet.line(stem, fork, name, room, *_devices(child, legend, colours), *_jobs(child, colours))
            continue
        holders = "" if child["children"] or not child["jobs"] else f"  {', '.join(child['jobs'])}"
        sheet.line(stem, fork, child["level"] + " ", Mark(child["name"], Colour.BOLD), f"  {_numbers(child)}{holders}")
        _branches(child["children"], stem + ("    " if last else "|   "), sheet, legend, colours)


def _numbers(domain: Json) -> str:
    return f"{domain['free']} of {count(domain['devices'], 'device')} free"


def _devices(node: Json, legend: dict[str, str], colours: dict[str, Colour]) -> list[Piece]:
    pieces: list[Piece] = []
    for index in range(node["devices"]):
        job = node["holders"].get(str(index))
        if job is not None:
            pieces.append(Mark(legend.get(job, _MANY), colours.get(job, Colour.NONE)))
        else:
            pieces.append("." if node["usable"] else Mark("x", Colour.RED))
    return pieces or [Mark("no devices", Colour.DIM)]


def _jobs(node: Json, colours: dict[str, Colour]) -> list[Piece]:
    pieces: list[Piece] = ["  "] if node["jobs"] or node["problem"] else []
    for index, entry in enumerate(node["jobs"]):
        ranks = f" rank{'s' if len(entry['ranks']) > 1 else ''} {indices_text(entry['ranks'])}"
        pieces += [", " if index else "", Mark(entry["job"], colours.get(entry["job"], Colour.NONE)), ranks]
    if node["problem"]:
        pieces.append(Mark(f"{'; ' if node['jobs'] else ''}{node['problem']}", Colour.RED))
    return pieces
