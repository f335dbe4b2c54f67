"""The pure half of the embedded API server: what Kubernetes' API machinery decides about objects, without any I/O.

Objects are plain JSON values (dict, list, str, int, float, bool, None) and are never changed in place: every call
returns a new value (which may share unchanged parts with its input). Times are passed in as RFC 3339 strings.
What a client must be told is raised as one of `refusals` (each makes its own Status); warnings are returned.
HTTP, storage, watches, generation, uid, resourceVersion and admission by resource live in `supernode.local.server`.

    refusals.Cause(reason, message, field)                      one entry of Status.details.causes
    refusals.RefusedError(LocalError)                           .code .reason .message .causes
        .status(group="", kind="", name="", uid="") -> dict     the metav1.Status to send
        refusals.InvalidError(causes)        422 Invalid
        refusals.BadRequestError(message)    400 BadRequest     (decoding, strict decoding, selectors, patches)
        refusals.ApplyConflictError(causes)  409 Conflict       (server-side apply)
        refusals.UnprocessableError(message) 422 Invalid        (a JSON patch that does not apply)
        refusals.PatchedInvalidError         422 Invalid        (what a patch made of the object cannot be decoded)
        refusals.UntypedError                500, no reason     (an applied configuration that its schema cannot type)

    documents.load(body: bytes, *, yaml: bool = False) -> Document(value, duplicates)   raises BadRequestError
    documents.dump(value) -> bytes                              compact JSON

    schemas.builtin() -> SchemaSet                              cached; .version "v1.37.2", .find(group, version, kind)
    kinds.builtin(group, version, kind) -> Kind | None          a built-in kind (cached)
    crd.validate(crd_dict, old=None) -> None                    InvalidError if the CRD itself is wrong
    crd.compile(crd_dict) -> dict[str, Kind]                    one Kind per version, served or not
    crd.with_defaults(crd_dict) -> dict                         names.singular, names.listKind, conversion
    Kind: .group .version .kind .schema .custom .has_status .api_version .columns
        .decode(value, *, field_validation="Warn", duplicates=(), patched=False) -> (object, warnings: list[str])
              types (400), unknown and duplicate fields (Strict 400, Warn warnings, Ignore), pruning, defaulting;
              `patched`: of what a JSON, merge or strategic patch made, where the same mistakes are 422
        .validate(new, old=None, *, subresource="") -> None     InvalidError(causes): required, formats, enum, CEL ...
        .causes(new, old=None, *, subresource="", earlier=None) -> list[Cause]     the same as a list
        .admit(value, old, field_validation, duplicates=()) -> (object, warnings)       decode, then validate
        .without_status(new, old) / .only_status(new, old)      what a write to the main / the status endpoint keeps
    metadata.validate(obj, old=None, *, namespaced: bool, name_rule: str = "subdomain") -> list[Cause]
              name_rule: subdomain | label | service | path; with `old` also immutability of name, namespace, uid ...

    patch.json_patch(obj, operations) -> object                 RFC 6902; BadRequestError, UnprocessableError
    patch.merge_patch(obj, patch) -> object                     RFC 7386
    patch.strategic_merge(schema, obj, patch) -> object         Kind.schema of a built-in
    fields.apply(kind, live, config, *, manager, force=False, subresource="", now) -> object
              server-side apply; `live` None creates; `config` as the client wrote it, without defaults. Raises
              ApplyConflictError, UntypedError. metadata.managedFields is kept inside. The result still goes through
              kind.decode and validate. `live` itself comes back when nothing but a time would change: skip the write.
    fields.track(kind, old, new, *, manager, operation="Update", subresource="", now) -> object
              create (`old` None), update or patch: managedFields of `new` recomputed; also call it with what defaulting
              and admission changed. Keeps the user's own managedFields edits ([{}] or [] resets them).
    fields.manager_from(query_manager, user_agent) -> str       fieldManager, or the user agent up to the first slash

    table.Column(name, type, value, format="", description="", priority=0)   value: Callable[[obj, now], cell]
    table.columns(kind.columns) -> tuple[Column, ...]           from additionalPrinterColumns (adds Age when none)
    table.builtin_columns(group, kind) -> tuple[Column, ...]    pods, nodes, events, ...; default Name, Age
    table.render(columns, objects, *, now, include="Metadata", metadata=None, version="v1") -> dict   a Table

    resources.Resource(group, version, kind, plural, singular, list_kind, namespaced, verbs, short_names, categories,
              subresources: tuple[Subresource, ...], storage_hash, definition: Kind | None)
    resources.Subresource(name, group, version, kind, verbs)    e.g. ("scale", "autoscaling", "v1", "Scale", (...))
    resources.builtin() -> tuple[Resource, ...]                 every built-in resource of the served groups
    resources.custom(crd_dict, kinds) -> tuple[Resource, ...]   one per served version
    discovery.core_versions(address) -> dict                    /api
    discovery.group_list(resources) -> dict                     /apis
    discovery.group(resources, group) -> dict | None            /apis/GROUP
    discovery.resource_list(resources, group, version) -> dict | None        /api/v1, /apis/GROUP/VERSION
    discovery.aggregated(resources, *, core: bool, version="v2") -> dict     /api (core) and /apis as
              application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList
    openapi.v3_index(resources) -> dict                         /openapi/v3 (with hash in the URLs)
    openapi.v3(resources, group, version) -> dict | None        /openapi/v3/api/v1, /openapi/v3/apis/GROUP/VERSION
    openapi.v2(resources) -> dict                               /openapi/v2 (JSON only)
    openapi.version_info() -> dict                              /version

    criteria.labels(text) -> LabelSelector                     .matches(labels) ; BadRequestError
    criteria.from_object(label_selector: dict | None) -> LabelSelector      metav1.LabelSelector
    criteria.fields(text) -> FieldSelector                     .matches(obj), .requirements; BadRequestError
"""
