"""The HTTP surface: from a request to an answer.

One catch-all route: who asks, may they, what is the path, which verb is meant, then the parts that do it. Refusals of
any layer become Status objects here and nowhere else. Bodies are read whole (at most 3 MiB, as on a real server).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web

from supernode.local.machinery import patch
from supernode.local.machinery.refusals import RefusedError
from supernode.local.server import podlogs, reviews, statuses, subresources, watching
from supernode.local.server.access import Access, Action
from supernode.local.server.answers import refuse, warn
from supernode.local.server.bodies import PATCHES, read_body, truth, with_duplicates, write_options
from supernode.local.server.deletion import Deleted, DeleteOptions, Deletion, parse_options
from supernode.local.server.faults import Faults
from supernode.local.server.identity import Identities, User
from supernode.local.server.kinds import Kinds, Served
from supernode.local.server.negotiation import JSON, YAML, negotiate
from supernode.local.server.objects import Objects
from supernode.local.server.pages import Pages
from supernode.local.server.paths import Place, parse, verb_of
from supernode.local.server.reading import list_page
from supernode.local.server.render import Renderer
from supernode.local.server.statuses import Object, StatusError
from supernode.local.server.store import encode
from supernode.local.server.target import APPLY_PATCH, JSON_PATCH, Target, Write, Written, saying

LARGEST_BODY: Final = 3 * 1024 * 1024
_LOG = logging.getLogger(__name__)


class Surface:
    """Answers requests.

    Args:
        objects: writes.
        deletion: deletes.
        identities: who a token is.
        pages: everything that is no object.
        faults: what goes wrong on purpose, or None.
    """

    def __init__(
        self, objects: Objects, deletion: Deletion, identities: Identities, pages: Pages, faults: Faults | None
    ) -> None:
        self._objects = objects
        self._store = objects.store
        self._kinds: Kinds = objects.kinds
        self._deletion = deletion
        self._identities = identities
        self._access = Access(objects.store)
        self._pages = pages
        self._faults = faults
        self.session: aiohttp.ClientSession | None = None

    # --- the one route -----------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        try:
            return await self._answer(request)
        except StatusError as exc:
            return refuse(exc, self._warnings(request))
        except RefusedError as exc:
            status = exc.status()
            refusal = StatusError(status["code"], status.get("reason", ""), status["message"], status.get("details"))
            return refuse(refusal, self._warnings(request))
        except web.HTTPRequestEntityTooLarge:
            text = f"limit is {LARGEST_BODY}"
            return refuse(StatusError(413, "RequestEntityTooLarge", f"Request entity too large: {text}", {}))
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception as exc:
            # The last line of defence: the client must get a Status, and the trace belongs into the log.
            _LOG.exception("%s %s", request.method, request.path_qs)
            return refuse(statuses.internal(f"{type(exc).__name__}: {exc}"))

    def _warnings(self, request: web.Request) -> tuple[str, ...]:
        """What is said with every answer about a resource."""
        place = parse(request.rel_url.raw_path)
        served = self._kinds.find(place.group, place.version, place.plural) if place else None
        return (served.traits.warning,) if served and served.traits.warning else ()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        place = parse(request.rel_url.raw_path)
        if place is None:
            self._authorize(user, Action(request.method.lower(), path=request.path))
            if request.method not in ("GET", "HEAD"):
                raise statuses.method_not_allowed()
            return self._page(request)
        verb = verb_of(request.method, place, watch=truth(request.query.get("watch")))
        if (verb in ("update", "patch") and not place.name) or (
            verb == "create" and place.name and not place.subresource
        ):
            raise statuses.method_not_allowed()
        self._authorize(
            user, Action(verb, place.group, place.plural, place.subresource, place.namespace or "", place.name)
        )
        served = self._kinds.find(place.group, place.version, place.plural)
        if served is None:
            if not self._kinds.has_version(place.group, place.version):
                return web.Response(status=404, text="404 page not found\n")
            raise statuses.no_such_resource()
        await self._suffer(request, verb)
        response = await self._dispatch(request, place, served, verb, user)
        if self._faults and not self._spared(request) and self._faults.loses_answer(verb):
            raise statuses.internal("the answer was lost (injected)")
        return response

    def _user(self, request: web.Request) -> User:
        user = self._identities.user(request.headers.get("Authorization", ""))
        if user is None:
            raise statuses.unauthorized()
        name = request.headers.get("Impersonate-User")
        if name is None:
            return user
        self._authorize(user, Action("impersonate", resource="users", name=name))
        groups = tuple(request.headers.getall("Impersonate-Group", []))
        for group in groups:
            self._authorize(user, Action("impersonate", resource="groups", name=group))
        return User(name, (*groups, "system:authenticated"))

    def _authorize(self, user: User, action: Action) -> None:
        if self._access.allows(user, action):
            return
        why = action.refusal(user)
        if action.path:
            raise StatusError(403, "Forbidden", f"forbidden: {why}", {})
        raise statuses.forbidden(action.group, action.resource, action.name, why)

    def _spared(self, request: web.Request) -> bool:
        return self._faults is None or self._faults.spares(request.headers.get("User-Agent", ""))

    async def _suffer(self, request: web.Request, verb: str) -> None:
        faults = self._faults
        if faults is None or self._spared(request):
            return
        await asyncio.sleep(faults.delay())
        if faults.times_out():
            await asyncio.sleep(faults.timeout_seconds)
            raise StatusError(
                504, "Timeout", "Timeout: request did not complete within the allotted timeout (injected)", {}
            )
        refusal = faults.refusal(verb)
        if refusal is not None:
            raise refusal

    # --- pages ---------------------------------------------------------------------------------------------------

    def _page(self, request: web.Request) -> web.Response:
        try:
            media, body, tag = self._pages.answer(request.path, request.headers.get("Accept", ""))
        except StatusError as exc:
            if exc.code == 404 and not request.path.startswith(("/api", "/openapi")):
                return web.Response(status=404, text="404 page not found\n")
            raise
        headers = {"Content-Type": media, "Vary": "Accept", **({"ETag": tag} if tag else {})}
        if tag and request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    # --- objects -------------------------------------------------------------------------------------------------

    async def _dispatch(
        self, request: web.Request, place: Place, served: Served, verb: str, user: User
    ) -> web.StreamResponse:
        if served.namespaced and place.namespace is None and verb not in ("list", "watch"):
            raise statuses.method_not_allowed()
        if not served.namespaced and place.namespace is not None:
            raise statuses.no_such_resource()
        if place.subresource:
            return await self._subresource(request, place, served, verb, user)
        target = Target(served, place.namespace or "", place.name)
        if verb not in served.resource.verbs:
            raise statuses.method_not_allowed()
        match verb:
            case "get":
                renderer = self._renderer(request, served)
                return self._send(renderer.one(self._objects.find(target)), request=request)
            case "list":
                return self._list(request, place, served)
            case "watch":
                return await self._watch(request, place, served)
            case "create":
                return await self._create(request, target, user)
            case "update":
                value, write = await read_body(request, served.kind), write_options(request)
                return self._written(
                    request, served, self._objects.update(target, value.value, with_duplicates(write, value))
                )
            case "patch":
                return await self._patch(request, target)
            case "delete":
                options = await self._options(request)
                hints = (served.traits.orphaning,) if served.traits.orphaning and options.policy is None else ()
                with saying(hints):
                    return self._deleted(request, target, self._deletion.delete(target, options), hints)
        return self._delete_all(request, place, served, await self._options(request))

    def _renderer(self, request: web.Request, served: Served) -> Renderer:
        wanted = negotiate(request.headers.get("Accept", ""))
        return Renderer(served, wanted, self._objects.clock, request.query.get("includeObject", ""))

    def _send(
        self, body: bytes, status: int = 200, warnings: tuple[str, ...] = (), *, request: web.Request
    ) -> web.Response:
        response = web.Response(body=body, status=status, content_type=JSON)
        wanted = negotiate(request.headers.get("Accept", ""))
        if wanted.media == YAML:
            response = web.Response(body=yaml.safe_dump(json.loads(body)).encode(), status=status, content_type=YAML)
        warn(response, (*warnings, *self._warnings(request)))
        return response

    def _written(self, request: web.Request, served: Served, written: Written) -> web.Response:
        body = self._renderer(request, served).one(written.stored)
        return self._send(body, 201 if written.created else 200, written.warnings, request=request)

    def _list(self, request: web.Request, place: Place, served: Served) -> web.Response:
        query = request.query
        selector = served.selectable.select(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        renderer = self._renderer(request, served)
        page = list_page(self._store, served, place.namespace, selector, query)
        return self._send(renderer.many(page.items, page.metadata), request=request)

    async def _watch(self, request: web.Request, place: Place, served: Served) -> web.StreamResponse:
        query: Mapping[str, str] = request.query
        chosen = query.get("fieldSelector", "")
        if place.name:
            chosen = ",".join(filter(None, (chosen, f"metadata.name={place.name}")))
        selector = served.selectable.select(query.get("labelSelector", ""), chosen)
        asked = watching.parse(served, place.namespace, selector, query)
        faults = None if self._spared(request) else self._faults
        watch = watching.Watch(self._store, asked, self._renderer(request, served))
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        try:
            await response.prepare(request)
            if faults and faults.expires():
                text = "too old resource version (injected)"
                await response.write(encode({"type": "ERROR", "object": statuses.expired(text).body}) + b"\n")
                return response
            async with asyncio.timeout(faults.watch_lifetime() if faults else None):
                async for chunk in watch.events(time.monotonic):
                    if faults:
                        await asyncio.sleep(faults.event_delay())
                    await response.write(chunk)
        except TimeoutError:
            return response
        except ConnectionResetError:
            return response  # the client has gone
        finally:
            watch.close()
        await response.write_eof()
        return response

    async def _create(self, request: web.Request, target: Target, user: User) -> web.Response:
        value, write = await read_body(request, target.served.kind), write_options(request)
        if target.served.resource.definition is None or "list" not in target.served.resource.verbs:
            return self._review(request, target, value.value, user)
        written = self._objects.create(target, value.value, with_duplicates(write, value))
        return self._written(request, target.served, written)

    def _review(self, request: web.Request, target: Target, value: Object, user: User) -> web.Response:
        if target.served.kind == "Binding":
            name = (value.get("metadata") or {}).get("name", "")
            pods = self._kinds.find("", "v1", "pods")
            if pods is None:
                raise statuses.no_such_resource()
            done = subresources.bind(self._objects, Target(pods, target.namespace, name), value, write_options(request))
            return self._send(encode(done), 201, request=request)
        done = reviews.answer(target.served.kind, value, user, self._access, self._identities)
        return self._send(encode(done), 201, request=request)

    async def _patch(self, request: web.Request, target: Target) -> web.Response:
        media = request.content_type.lower()
        if media not in PATCHES:
            raise StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        if media == APPLY_PATCH and not request.query.get("fieldManager"):
            cause = statuses.required("fieldManager", "is required for apply patch")
            details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": [cause.as_dict()]}
            raise StatusError(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: {cause}', details)
        body = await read_body(request, yaml_too=media == APPLY_PATCH)
        write = with_duplicates(write_options(request), body)
        if target.subresource == "scale":
            return self._patch_scale(request, target, media, body.value, write)
        return self._written(request, target.served, self._objects.patch(target, media, body.value, write))

    def _patch_scale(self, request: web.Request, target: Target, media: str, body: Any, write: Write) -> web.Response:
        current = subresources.scale_of(target, self._objects.find(target))
        if media == JSON_PATCH:
            new = patch.json_patch(current, body)
        else:
            new = patch.merge_patch(current, body)
        return self._scaled(request, target, new, write)

    def _scaled(self, request: web.Request, target: Target, scale: Object, write: Write) -> web.Response:
        written = subresources.write_scale(self._objects, target, scale, write)
        return self._send(encode(subresources.scale_of(target, written.stored)), request=request)

    # --- deletes ---------------------------------------------------------------------------------------------------

    async def _options(self, request: web.Request) -> DeleteOptions:
        body = await request.read()
        value = (await read_body(request)).value if body.strip() else {}
        return parse_options(value, request.query)

    def _deleted(
        self, request: web.Request, target: Target, deleted: Deleted, warnings: tuple[str, ...]
    ) -> web.Response:
        served = target.served
        body = {**deleted.obj, "apiVersion": served.api_version, "kind": served.kind}
        if deleted.gone and not served.traits.answers_object:
            body = statuses.success(target.name, served.group, served.plural, deleted.obj["metadata"]["uid"])
        return self._send(encode(body), warnings=warnings, request=request)

    def _delete_all(self, request: web.Request, place: Place, served: Served, options: DeleteOptions) -> web.Response:
        query = request.query
        selector = served.selectable.select(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        found = [each for each in self._store.items(served.store, place.namespace) if selector.matches(each.obj)]
        metadata = {"resourceVersion": str(self._store.revision)}
        for each in found:
            self._deletion.delete(Target(served, place.namespace or "", each.obj["metadata"]["name"]), options)
        return self._send(self._renderer(request, served).many(found, metadata), request=request)

    # --- subresources ------------------------------------------------------------------------------------------------

    async def _subresource(
        self, request: web.Request, place: Place, served: Served, verb: str, user: User
    ) -> web.StreamResponse:
        instead = subresources.ABSENT.get((place.plural, place.subresource))
        if instead:
            raise statuses.not_served(f"{place.plural}/{place.subresource}", instead)
        known = next((each for each in served.resource.subresources if each.name == place.subresource), None)
        if known is None:
            raise statuses.no_such_resource()
        if verb not in known.verbs:
            raise statuses.method_not_allowed()
        target = Target(served, place.namespace or "", place.name, place.subresource)
        match place.subresource:
            case "status":
                return await self._status(request, target, verb)
            case "scale":
                return await self._scale(request, target, verb)
            case "log":
                if self.session is None:
                    raise statuses.internal("the server is stopping")
                url = podlogs.url_of(self._objects, target, request.query)
                return await podlogs.proxy(self.session, url, request)
        value = (await read_body(request)).value
        main = Target(served, target.namespace, target.name)
        match place.subresource:
            case "binding":
                return self._send(
                    encode(subresources.bind(self._objects, main, value, write_options(request))), 201, request=request
                )
            case "eviction":
                subresources.evict(self._objects, self._deletion, main, value)
                done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
                return self._send(encode(done), 201, request=request)
            case "token":
                done = subresources.issue_token(self._objects, self._identities, main, value)
                return self._send(encode(done), 201, request=request)
            case "finalize":
                done = subresources.finalize(self._objects, self._deletion, main, value)
                return self._send(encode(done), request=request)
        raise statuses.method_not_allowed()

    async def _status(self, request: web.Request, target: Target, verb: str) -> web.Response:
        if verb == "get":
            return self._send(self._renderer(request, target.served).one(self._objects.find(target)), request=request)
        if verb == "patch":
            return await self._patch(request, target)
        value = await read_body(request)
        write = with_duplicates(write_options(request), value)
        return self._written(request, target.served, self._objects.update(target, value.value, write))

    async def _scale(self, request: web.Request, target: Target, verb: str) -> web.Response:
        if verb == "get":
            return self._send(encode(subresources.scale_of(target, self._objects.find(target))), request=request)
        if verb == "patch":
            return await self._patch(request, target)
        return self._scaled(request, target, (await read_body(request)).value, write_options(request))
