"""Paddle's launcher starts it once per accelerator; a sum over all processes of the job."""

import paddle
import paddle.distributed as dist

paddle.set_device("cpu")
dist.init_parallel_env()
value = paddle.to_tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
print(f"sum {int(value.item())} of {dist.get_world_size()}", flush=True)
