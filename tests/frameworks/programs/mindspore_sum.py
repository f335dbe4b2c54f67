"""MindSpore's dynamic cluster: rank 0 has the scheduler, every accelerator a worker; a sum over all processes.

Without arguments it starts these processes by the job's variables, as msrun does; the rest is what they run.
"""

import os
import subprocess
import sys


def start(role: str, **more: str) -> subprocess.Popen[bytes]:
    """This program once more, in a role."""
    return subprocess.Popen([sys.executable, __file__, "run"], env={**os.environ, "MS_ROLE": role, **more})


def launch() -> int:
    node, each = int(os.environ["MS_NODE_RANK"]), int(os.environ["SUPERNODE_DEVICES"])
    role = os.environ["MS_ROLE"]
    started = [start("MS_SCHED")] if node == 0 else []
    started += [start(role, MS_NODE_ID=str(node * each + local)) for local in range(each)]
    return max(process.wait() for process in started)


def add_up() -> None:
    import mindspore as ms
    import numpy as np
    from mindspore.communication import get_group_size, get_rank, init

    ms.set_device("CPU")
    init()
    total = ms.ops.AllReduce()(ms.Tensor(np.array([get_rank() + 1.0], np.float32)))
    print(f"sum {int(total.asnumpy()[0])} of {get_group_size()}", flush=True)


if sys.argv[1:] == ["run"]:
    add_up()
else:
    sys.exit(launch())
