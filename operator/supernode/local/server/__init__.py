"""A Kubernetes API server in one process: HTTP with a bearer token, everything in memory.

    certificate = make_certificate()
    server = ApiServer(token="...", certificate=certificate)    # host, port=0 (any free one), faults, clock, history
    url = await server.start()                                  # "https://127.0.0.1:41234", trusted by certificate.pem
    await server.stop()

Without a certificate it is plain http, which is enough for one's own clients; kubectl sends no token over that.
What flows in: requests of any Kubernetes client, and `Faults` if something is to go wrong. What flows out: answers as
kube-apiserver 1.37 gives them, as far as `docs/local-server.md` says. Not here: schemas, patches, field ownership,
tables and documents (`supernode.local.machinery`), and anything that runs pods (`supernode.local.agent`).
"""

from __future__ import annotations

from supernode.local.server.certificate import Certificate, make_certificate
from supernode.local.server.clock import Clock
from supernode.local.server.faults import Faults
from supernode.local.server.server import ApiServer

__all__ = ["ApiServer", "Certificate", "Clock", "Faults", "make_certificate"]
