"""jax.distributed as the page of variables has it; a sum over all processes."""

import os

import jax

jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(
    num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"])
)

import jax.numpy as jnp  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

values = multihost_utils.process_allgather(jnp.array([jax.process_index() + 1.0]))
print(f"sum {int(values.sum())} of {jax.process_count()}", flush=True)
jax.distributed.shutdown()
