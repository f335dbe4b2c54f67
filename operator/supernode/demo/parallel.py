"""One training step on all devices of the job: micro batches through the stages, gradients over the replicas.

Every device runs the same program on its place of the cut (`Rank`); one worker drives those of its pod side by side
(`Ranks`). Nothing here waits for a device: calls are recorded, and streams wait for each other on the devices. All
replicas start from the same weights and take the same averaged gradients, so they stay the same bit by bit;
`digests` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from supernode.demo.adamw import AdamW, AdamWConfig
from supernode.demo.corpus import Bytes
from supernode.demo.cut import Cut
from supernode.demo.gpt import GPT, GPTConfig
from supernode.demo.parameters import start_values
from supernode.demo.schedule import one_forward_one_backward
from supernode.demo.tape import Tape
from supernode.emulator.client import Array, Device, Emulator, Member, Stream
from supernode.errors import EmulatorError, InputError

Batch = tuple[Bytes, Bytes]


class Rank:
    """The program of one device."""

    def __init__(
        self, emulator: Emulator, device: Device, model: GPTConfig, cut: Cut, optimizer: AdamWConfig, *, seed: int
    ) -> None:
        self.device = device
        self.cut = cut
        self.place = place = cut.place(device.rank)
        # Batches arrive and losses leave beside the work: nobody waits for what the step does not need.
        self._arrivals, self._losses = device.stream(), device.stream()
        self.world = emulator.group(channel=1).member(device)

        def among(ranks: tuple[int, ...]) -> Member | None:
            return emulator.group(ranks).member(device) if len(ranks) > 1 else None

        tensor = among(cut.tensor_ranks(place))
        self.replicas = among(cut.data_ranks(place))
        ends = cut.stage_rank(place, 0), cut.stage_rank(place, cut.pipeline - 1)
        # The first and the last stage have a copy each of the embedding.
        self.ends = among(ends) if cut.pipeline > 1 and device.rank in ends else None
        self.stages = among(tuple(cut.stage_rank(place, stage) for stage in range(cut.pipeline)))
        self.model = GPT(device, model, cut, place, tensor)
        start = start_values(device, self.model.parameters.table, seed, rank=place.tensor, ranks=cut.tensor)
        self.optimizer = AdamW(start, model.dtype, optimizer, self.replicas if cut.shard_optimizer else None)
        self.model.parameters.load(self.optimizer.parameters)
        # Activations and gradients leave on streams of their own: nobody waits for a neighbour that is not there yet.
        self._forwards: Stream | None = device.stream() if cut.pipeline > 1 else None
        self._backwards: Stream | None = device.stream() if cut.pipeline > 1 else None

    def step(self, batches: Sequence[Batch], *, step: int, learning_rate: float) -> Iterator[Array | None]:
        """One training step; gives way after every pass.

        Args:
            batches: the micro batches of this replica.
            step: counted from 1.
            learning_rate: of this step.

        Yields:
            None, and at last the mean loss over all replicas.
        """
        model, stage, stages = self.model, self.place.pipeline, self.cut.pipeline
        model.parameters.forget_gradients()
        tapes: dict[int, Tape] = {}
        loss: Array | None = None
        done = 0
        for kind, number in one_forward_one_backward(stage, stages, len(batches)):
            if kind == "forward":
                tapes[number] = Tape()
                result = self._forward(batches[number], tapes[number])
                if model.last:
                    loss = result if loss is None else self.device.launch("add", loss, result)
            else:
                self._backward(batches[number], tapes.pop(number), share=1 / len(batches))
                done += 1
                model.parameters.end_micro_batch(last=done == len(batches))
            yield None
        if loss is None:
            loss = self.device.zeros((), dtype="f32")
        # Only the last of the stages had a loss, and it is a sum over the micro batches.
        factor = stages / len(batches)
        if factor != 1:
            loss = self.device.launch("scale", loss, factor=factor)
        self.world.all_reduce(loss, op="average", stream=self._losses)
        model.reduce_shared_rows()
        if self.ends is not None:
            self.ends.all_reduce(model.parameters.gradients["token"])
        gradient = self.optimizer.reduce(model.parameters.gradient, self.replicas)
        self.optimizer.step(gradient, step=step, learning_rate=learning_rate)
        yield loss

    def _forward(self, batch: Batch, tape: Tape) -> Array:
        model, stage = self.model, self.place.pipeline
        tokens, targets = batch
        if model.first:
            x = self.device.array(tokens, stream=self._arrivals)
        else:
            x = self._from(stage - 1, len(tokens))
        aims = self.device.array(targets, stream=self._arrivals) if model.last else None
        y = model.forward(x, aims, tape)
        if not model.last:
            self._to(stage + 1, y, self._forwards)
        return y

    def _backward(self, batch: Batch, tape: Tape, *, share: float) -> None:
        model, stage = self.model, self.place.pipeline
        grad = None if model.last else self._from(stage + 1, len(batch[0]))
        grad = model.backward(grad, tape, scale=share)
        if grad is not None:
            self._to(stage - 1, grad, self._backwards)

    def _to(self, stage: int, array: Array, stream: Stream | None) -> None:
        if self.stages is not None:
            self.stages.send(array, to=self.cut.stage_rank(self.place, stage), stream=stream)

    def _from(self, stage: int, micro_batch: int) -> Array:
        if self.stages is None:
            raise InputError("a pipeline of one stage receives nothing")
        source = self.cut.stage_rank(self.place, stage)
        return self.stages.recv(self.model.activations(micro_batch), self.model.config.dtype, source=source)


class Ranks:
    """The devices of this worker, and what they do together."""

    def __init__(
        self, emulator: Emulator, model: GPTConfig, optimizer: AdamWConfig, cut: Cut | None = None, *, seed: int
    ) -> None:
        self.cut = cut or Cut(data=emulator.world_size)
        self.group = emulator.group()
        self.devices = self.group.local
        self.local = [Rank(emulator, device, model, self.cut, optimizer, seed=seed) for device in self.devices]

    def check_same(self, what: str, digest: str) -> None:
        """InputError unless all ranks give the same digest."""
        number = np.array([int(digest[:12], 16)], dtype=np.int64)
        low, high = ([device.array(number) for device in self.devices] for _ in range(2))
        self.group.all_reduce(low, op="min")
        self.group.all_reduce(high, op="max")
        if low[0].item() != high[0].item():
            raise InputError(f"the ranks do not have the same {what}: here its sha256 starts with {digest[:12]}")

    def step(self, batches: Sequence[Sequence[Batch]], *, step: int, learning_rate: float) -> Array:
        """One training step.

        Args:
            batches: per local device the micro batches of its replica.
            step: counted from 1.
            learning_rate: of this step.

        Returns:
            The mean loss over all replicas, f32, on the first device.
        """
        programs = [
            rank.step(micro_batches, step=step, learning_rate=learning_rate)
            for rank, micro_batches in zip(self.local, batches, strict=True)
        ]
        # Pass by pass, so that no device is far ahead of one that it will wait for.
        losses = [loss for row in zip_longest(*programs) for loss in row if loss is not None]
        return losses[0]

    def digests(self) -> list[str]:
        """sha256 of the weights of each local device.

        Raises:
            EmulatorError: replicas of the same part of the model don't hold the same bits.
        """
        digests = [rank.optimizer.digest() for rank in self.local]
        numbers = [np.array([int(digest[:12], 16)], dtype=np.int64) for digest in digests]
        bounds = []
        for rank, number in zip(self.local, numbers, strict=True):
            low, high = rank.device.array(number), rank.device.array(number)
            if rank.replicas is not None:
                rank.replicas.all_reduce(low, op="min")
                rank.replicas.all_reduce(high, op="max")
            bounds.append((low, high))
        for rank, (low, high) in zip(self.local, bounds, strict=True):
            if low.item() != high.item():
                raise EmulatorError(f"the replicas of device rank {rank.device.rank} do not hold the same weights")
        return digests
