"""The worker's program: trains a small byte-level GPT on the emulated devices of its pod, with all other workers.

    python -m supernode.demo.train --steps 200 --layers 2 --hidden 64 --heads 4 --sequence 64 --batch 8

It finds its devices through SUPERNODE_EMULATOR_SOCKET and its place in the job through the sidecar. Standard output:
one JSON object per line: first the run, then every few steps the loss, at the end rank, first and last loss, unigram
loss and the sha256 of the parameters on each local device. Exit status: 0 trained, 1 an error (one line on standard
error), 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, Final

from supernode.demo.adamw import AdamWConfig
from supernode.demo.corpus import DEFAULT_BYTES, Batches, Corpus, load_corpus
from supernode.demo.cut import Cut, cut_from_environment, cut_of
from supernode.demo.gpt import GPTConfig
from supernode.demo.parallel import Ranks
from supernode.emulator import client
from supernode.errors import ModelError, SupernodeError

# Steps whose mean is reported as the last loss: one batch alone is noisy.
LAST_STEPS: Final = 10
# Sequences per replica where neither the job nor a flag says it.
DEFAULT_BATCH: Final = 8
STOPPED: Final = 128 + signal.SIGTERM


class Stopped(Exception):  # noqa: N818
    """SIGTERM came."""


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the program."""
    parser = argparse.ArgumentParser(prog="python -m supernode.demo.train", description="Train a small byte-level GPT.")
    model, optimizer = GPTConfig(), AdamWConfig()
    parser.add_argument("--steps", type=_positive, default=200, help="optimizer steps (default %(default)s)")
    parser.add_argument("--layers", type=_positive, default=model.layers, help="blocks (default %(default)s)")
    parser.add_argument("--hidden", type=_positive, default=model.hidden, help="width (default %(default)s)")
    parser.add_argument("--heads", type=_positive, default=model.heads, help="attention heads (default %(default)s)")
    parser.add_argument("--sequence", type=_positive, default=model.sequence, help="bytes of context (default 64)")
    parser.add_argument("--batch", type=_positive, help="sequences per replica and step (default: the job's, else 8)")
    parser.add_argument("--micro-batch", type=_positive, help="of them together (default: the job's, else all)")
    parser.add_argument("--tensor", type=_positive, help="devices that share each matrix (default: the job's, else 1)")
    parser.add_argument("--pipeline", type=_positive, help="stages of blocks (default: the job's, else 1)")
    parser.add_argument("--learning-rate", type=float, default=optimizer.learning_rate, help="peak (default 0.003)")
    parser.add_argument("--weight-decay", type=float, default=optimizer.weight_decay, help="default %(default)s")
    parser.add_argument("--warmup", type=_positive, default=optimizer.warmup, help="steps (default %(default)s)")
    parser.add_argument("--dtype", choices=("bf16", "f16", "f32"), default=model.dtype, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of weights and batches (default %(default)s)")
    parser.add_argument("--corpus-bytes", type=_positive, default=DEFAULT_BYTES, help="text used (default %(default)s)")
    parser.add_argument("--log-every", type=_positive, default=20, help="steps per line (default %(default)s)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def train(emulator: client.Emulator, args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """Train; the words of the last line."""
    model = GPTConfig(args.layers, args.hidden, args.heads, args.sequence, dtype=args.dtype)
    optimizer = AdamWConfig(args.learning_rate, weight_decay=args.weight_decay, warmup=args.warmup)
    cut = cut_of_run(args, emulator.world_size)
    ranks = Ranks(emulator, model, optimizer, cut, seed=args.seed)
    ranks.check_same("text", corpus.digest)
    streams = [
        Batches(
            corpus,
            batch=cut.batch,
            micro_batch=cut.micro_batch,
            sequence=args.sequence,
            seed=args.seed,
            replica=cut.place(device.rank).data,
            replicas=cut.data,
        )
        for device in ranks.devices
    ]
    unigram = corpus.unigram_loss
    tokens_per_step = cut.batch * cut.data * args.sequence
    say(
        rank=emulator.rank,
        workers=emulator.workers,
        devices=len(ranks.devices),
        chip=ranks.devices[0].chip,
        parameters=model.size,
        tensor=cut.tensor,
        pipeline=cut.pipeline,
        data=cut.data,
        corpusBytes=int(corpus.text.size),
        corpusSha256=corpus.digest,
        unigramLoss=round(unigram, 4),
    )
    losses: list[float] = []
    started = time.monotonic()
    for step in range(1, args.steps + 1):
        batches = [stream.next() for stream in streams]
        loss = ranks.step(batches, step=step, learning_rate=optimizer.rate(step, args.steps)).item()
        emulator.synchronize()
        losses.append(float(loss))
        emulator.report(step=step, loss=losses[-1], tokens=step * tokens_per_step)
        if step % args.log_every == 0 or step in (1, args.steps):
            seconds = time.monotonic() - started
            say(step=step, loss=round(losses[-1], 4), unigramLoss=round(unigram, 4), wallSeconds=round(seconds, 2))
    digests = ranks.digests()
    last = sum(losses[-LAST_STEPS:]) / len(losses[-LAST_STEPS:])
    emulator.report(step=args.steps, loss=last, tokens=args.steps * tokens_per_step, digest=digests[0])
    return {
        "rank": emulator.rank,
        "steps": args.steps,
        "firstLoss": losses[0],
        "lastLoss": last,
        "unigramLoss": unigram,
        "tokens": args.steps * tokens_per_step,
        "wallSeconds": round(time.monotonic() - started, 3),
        "digests": digests,
    }


def cut_of_run(args: argparse.Namespace, devices: int) -> Cut:
    """The cut that flags ask for, else the job's, with the batch of each replica.

    Raises:
        ModelError: it does not fit the number of devices.
    """
    if args.tensor or args.pipeline:
        tensor, pipeline = args.tensor or 1, args.pipeline or 1
        cut = cut_of({"tensor": tensor, "pipeline": pipeline, "data": max(1, devices // (tensor * pipeline))}, devices)
    else:
        cut = cut_from_environment(os.environ, devices)
    batch = args.batch or cut.batch or DEFAULT_BATCH
    micro_batch = args.micro_batch or (batch if args.batch else cut.micro_batch or batch)
    if batch % micro_batch:
        raise ModelError(
            f"a batch of {batch} does not divide into micro batches of {micro_batch}", field="microBatchSize"
        )
    return replace(cut, batch=batch, micro_batch=micro_batch)


def say(**words: Any) -> None:
    """One line of JSON on standard output, at once."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the exit status."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    try:
        corpus = load_corpus(args.corpus_bytes)
        with client.connect() as emulator:
            say(**train(emulator, args, corpus))
    except Stopped:
        # Not waited for: the other workers may have stopped already, and a collective would never end.
        say(stopped="SIGTERM")
        sys.stdout.flush()
        os._exit(STOPPED)
    except SupernodeError as exc:
        sys.stderr.write(f"supernode.demo.train: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
