"""A sum over all processes that mpirun has started."""

from mpi4py import MPI

total = MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank() + 1)
print(f"sum {total} of {MPI.COMM_WORLD.Get_size()}", flush=True)
