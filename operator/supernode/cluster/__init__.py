"""The only code that talks to Kubernetes: connection, caches, lease, events, status; and pure readings and builders.

What may live here: requests to the API server (`client`, `cache`, `lease`, `events`, `status`, `resources`); readings
of raw objects (`nodes`, `pods`); their way into and out of the scheduler's types (`translate`, `observe`); the objects
a gang becomes (`manifests`, `rendezvous`). Raw JSON stays inside; what crosses the border is a value.
Not here: decisions about when to do what (that is `handlers`), and kopf.
"""
