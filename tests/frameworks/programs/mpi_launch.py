"""What an MPI job's workers run: rank 0 starts mpirun, the others are there until it is done.

mpirun finds the hosts in the hostfile that the operator's variables name. Here all hosts are addresses of this machine,
so what would be ssh runs the command at once.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ADDRESS = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


def launch() -> int:
    here = Path(__file__).parent
    agent = Path(os.environ["TMPDIR"]) / "agent"
    agent.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    agent.chmod(0o755)
    mpirun = Path(sys.executable).parent / "mpirun"
    environment = {
        **os.environ,
        "PRTE_MCA_plm_ssh_agent": str(agent),
        # Two hosts that are one machine: each takes the other's shared memory for its own.
        "OMPI_MCA_btl": "self,tcp",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    command = [mpirun, "--map-by", "slot", sys.executable, here / "mpi_sum.py"]
    return subprocess.run(command, env=environment, check=False).returncode


if os.environ["SUPERNODE_RANK"] == "0":
    with socket.create_server(ADDRESS):
        sys.exit(launch())
while True:
    try:
        with socket.create_connection(ADDRESS) as connection:
            while connection.recv(1):
                pass
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
    except ConnectionResetError:
        break
