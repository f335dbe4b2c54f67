"""The client library: what training code imports to use the emulated devices of its pod.

Flows in: NumPy arrays and kernel launches. Flows out: `Array` handles to data that stays on the devices, NumPy arrays
read back, and errors of `supernode.errors`. Needs numpy and ml_dtypes only. Not here: the kernels themselves
(`supernode emulator kernels` lists them; docs/emulator.md explains them).

    from supernode.emulator import client

    emulator = client.connect()                      # $SUPERNODE_EMULATOR_SOCKET; or connect("/path/emulator.sock")
    device = emulator.devices[0]                     # those that $HIP_VISIBLE_DEVICES leaves
    a = device.array(numpy_array, dtype="bf16")      # copy to the device; dtype by short name (see below)
    b = device.full((64, 32), 1.0, dtype="bf16")     # made on the device; also zeros(shape, dtype), empty(shape, dtype)
    c = device.launch("matmul", a, b, transpose_b=True)          # returns at once; shape and dtype are known at once
    loss, logsumexp = device.launch("softmax_cross_entropy", logits, targets)    # several outputs: a tuple
    device.launch("add", a, b, out=a)                # into an array that exists (same shape and dtype)
    device.launch("adamw", param, grad, master, m, v, learning_rate=1e-3, step=1)    # in place, returns ()
    c.numpy()                                        # waits; bf16 comes as ml_dtypes.bfloat16; c.item() for one value

Arrays: `.shape .dtype (short name) .size .nbytes .device`, `.numpy()`, `.item()`, `.reshape(shape)` (a view: shares
memory, -1 allowed), `.part(start, shape)` (a view of a run of its elements), `.to(device)` (copy to another device
of the pod), `.free()`; a garbage-collected array frees its device memory by itself. Device methods: `.array .full
.zeros .empty .launch .stream() .synchronize() .memory() .empty_cache()`; `.properties` (the catalogue's figures);
`.index` (among the visible), `.rank` (global: worker rank * devices per worker + local device), `.chip`.
`emulator.rank`, `.workers`, `.world_size` (all devices of the job), `.devices`, `.close()` (also a context manager).

Streams and events: `stream = device.stream(priority=0)` (-1 goes first, 1 last); `device.launch(..., stream=stream)`;
`event = stream.record()` (`device.record()` on the default stream); `stream.wait(event)`; `event.seconds` waits and
gives the device time of the virtual clock in seconds; `device.synchronize()`, `stream.synchronize()`,
`emulator.synchronize()`. A launch that reads an array written on another stream waits for it by itself; only in-place
updates across streams need events.

Groups: `group = emulator.group()` (all devices of the job; or `emulator.group([0, 2])`, global ranks, every member
must call alike); `group.ranks`, `group.size`, `group.local` (the devices of this pod in it, in rank order).
All take a list with one array per local device of the group, in rank order, and are asynchronous, in stream order:
    group.all_reduce(arrays, op="sum")               # in place; op: sum, product, min, max, average
    group.broadcast(arrays, root=0)                  # in place; root is a global rank
    group.reduce(arrays, root=0, op="sum")           # in place at the root
    out = group.all_gather(arrays)                   # each (group.size, *shape)
    out = group.gather(arrays, root=0)               # as all_gather at the root; None elsewhere
    out = group.scatter(array, shape, dtype, root=0)         # array (group.size, *shape) of the root, elsewhere None
    out = group.reduce_scatter(arrays, op="sum")     # input (group.size * n, ...) -> (n, ...)
    out = group.all_to_all(arrays)                   # blocks along axis 0, one per rank
    out = group.all_to_all_v(arrays, counts)         # counts[i][j] rows of axis 0 from member i to member j
    group.send(array, to=rank); received = group.recv(device, shape, dtype, source=rank)
    group.barrier()
    mine = group.member(device)   one device's calls alone, for programs written per device: mine.all_reduce(array) ...
All take `stream=` or, for lists, `streams=`. A lost or late rank is an error that names it, at the next wait.
    handle = group.start("all_reduce", arrays)    beside the program's other work, on streams of the group's own:
                                  handle.result, handle.wait() (the device waits), handle.done(), handle.synchronize()
    got = mine.exchange([(array, to)], [(shape, dtype, source)])      sends and receives side by side, in one call
    group = group.again()         after it has failed, when all pods still live; every member must ask

Progress: `emulator.report(step=1, loss=2.3, tokens=4096, steps=1000, checkpoint=None, digest=None, **extra)` once a
step; the sidecar publishes it and takes the device seconds between two reports as the step time. `steps`: of the whole
training; `checkpoint`: steps done when the last checkpoint was saved.

Errors are asynchronous, as on a card: shape and dtype mistakes are raised by `launch` itself (KernelError), the rest
(OutOfDeviceMemoryError, FabricError ...) at the next call that waits, naming the call that failed, its number and
arguments, and the line of the program that made it. After that the connection goes on; results that depended on the
failed call stay unusable.

Dtypes: bool i8 i16 i32 i64 u8 u16 u32 u64 f8e4m3 f8e5m2 f16 bf16 f32 f64 c64 c128 (NumPy types are accepted
wherever a dtype is asked for).
Inputs of a binary kernel must have one dtype (use `cast`); a Python number may stand in for the second.

Kernels (attributes with defaults; 16-bit floats compute in f32 and round once, to nearest even):
  add subtract multiply divide maximum minimum power floor_divide remainder (a, b or number), NumPy broadcasting
  equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor -> bool
  negative absolute sign square sqrt rsqrt reciprocal exp log tanh sigmoid relu floor ceil round ... (x)
  where(condition, a, b)   scale(x, factor=1.0, offset=0.0)   clip(x, low=None, high=None)
  cast(x, dtype=)   copy(x)   full(shape=, value=, dtype=)   zeros(shape=, dtype=)
  arange(start=0, stop=, step=1, dtype="i32")
  random_normal(shape=, dtype=, seed=, mean=0.0, deviation=1.0)   random_uniform(shape=, dtype=, seed=, low=0, high=1)
  sum mean max min prod (x, axis=None, keepdims=False; sum and mean also dtype=None)   argmax argmin (axis=None) -> i64
  sum_of_squares(x, axis=None, keepdims=False) -> f32
  matmul(a, b[, bias], transpose_a=False, transpose_b=False, dtype=None, precision="f32", activation=None)
        batched as NumPy's; precision "tf32"; activation "relu", "gelu" ... after the bias
  transpose(x, axes=None)   reshape is a method   concatenate(x, ..., axis=0)   split(x, sections=, axis=0) -> tuple
  slice(x, start=, stop=, axis=0)   broadcast_to(x, shape=)   take(x, indices, axis=0)
  embedding(table[v, c], tokens[...]) -> [..., c]   embedding_backward(grad, tokens, rows=v, dtype=None) -> [v, c]
  layer_norm(x, gain, bias, epsilon=1e-5) -> (y, mean, rstd)     over the last axis; mean, rstd in f32
  layer_norm_backward(grad, x, gain, mean, rstd, dtype=None) -> (dx, dgain, dbias)    dtype of dgain and dbias
  gelu(x, approximate="tanh")   gelu_backward(grad, x, approximate="tanh")   "none": by the normal distribution
  softmax(x, axis=-1)   softmax_backward(grad, y, axis=-1)
  attention(q, k, v, causal=True, scale=None, window=0) -> (out, logsumexp f32)   [..., heads, tokens, head]; q may have
        several heads per head of k and v; scale 1/sqrt(head)
  attention_backward(grad, q, k, v, out, logsumexp, causal=True, scale=None, window=0) -> (dq, dk, dv)
  softmax_cross_entropy(logits[n, v], targets[n]) -> (mean loss f32[], logsumexp f32[n])
  softmax_cross_entropy_backward(logits, targets, logsumexp, scale=1.0) -> dlogits     of scale * mean loss
  adamw(param, grad, master f32, m f32, v f32, learning_rate=, step=, beta1=0.9, beta2=0.999, epsilon=1e-8,
        weight_decay=0.0, gradient_scale=1.0)                    in place on param, master, m, v; decoupled decay
Many more (convolutions, packed attention, rotary positions, dropout, SwiGLU, experts, losses and tables over ranks,
8-bit products, clipping, loss scaling): `supernode emulator kernels`, and docs/kernels.md for how they go together.
"""

from supernode.emulator.client.arrays import Array
from supernode.emulator.client.devices import Device, Event, MemoryUse, Stream
from supernode.emulator.client.emulator import Emulator, connect
from supernode.emulator.client.groups import Group
from supernode.emulator.client.handles import Handle
from supernode.emulator.client.members import Member

__all__ = ["Array", "Device", "Emulator", "Event", "Group", "Handle", "Member", "MemoryUse", "Stream", "connect"]
