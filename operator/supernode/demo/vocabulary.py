"""The ends of the model: the embeddings that turn bytes into activations, and the head that turns them into a loss.

Both use one table, a row per byte. Tensor ranks have some rows of it each: a byte's row comes from the rank that has
it, and the loss of a position from sums over the ranks, so that nobody holds the scores of all bytes (Shoeybi et al.,
2019, section 3).
"""

from __future__ import annotations

from supernode.demo.layers import Border
from supernode.demo.parameters import Parameters
from supernode.demo.tape import Tape
from supernode.emulator.client import Array


def first_row(parameters: Parameters, border: Border) -> int:
    """The byte that this rank's first row of the table stands for."""
    return 0 if border.ranks is None else border.ranks.place * parameters.weights["token"].shape[0]


class Embedding:
    """Row of the byte plus row of the position."""

    def __init__(self, parameters: Parameters, border: Border) -> None:
        self.parameters = parameters
        self.border = border

    def forward(self, tokens: Array, tape: Tape) -> Array:
        """(batch, sequence) -> (batch * sequence or this rank's share of the rows, hidden)."""
        launch, weights, ranks = self.parameters.device.launch, self.parameters.weights, self.border.ranks
        table = weights["token"]
        tape.keep(tokens)
        if ranks is None:
            x = launch("embedding", table, tokens)
        else:
            # Bytes of other ranks give rows of zeros: the sum is the row.
            start, total = ranks.place * table.shape[0], ranks.size * table.shape[0]
            x = launch("embedding", table, tokens, start=start, total=total)
        if self.border.first:
            x = launch("add", x, weights["position"])
        return self.border.leave(x.reshape((-1, table.shape[1])))

    def backward(self, grad: Array, tape: Tape) -> None:
        """Gradients of both tables."""
        (tokens,) = tape.take()
        rows = self.parameters.weights["token"].shape[0]
        grad = self.border.enter(grad).reshape((*tokens.shape, grad.shape[-1]))
        self.parameters.add_gradients(("position",), "sum", grad, axis=0)
        start = first_row(self.parameters, self.border)
        self.parameters.add_gradients(("token",), "embedding_backward", grad, tokens, rows=rows, start=start)


class Head:
    """Scores of every byte, and their mean cross-entropy with the byte that came."""

    def __init__(self, parameters: Parameters, border: Border) -> None:
        self.parameters = parameters
        self.border = border

    def forward(self, x: Array, targets: Array, tape: Tape) -> Array:
        """Mean loss, f32, of rows x (rows, hidden) against targets (rows,)."""
        launch, ranks = self.parameters.device.launch, self.border.ranks
        x = self.border.enter(x)
        logits = launch("matmul", x, self.parameters.weights["token"], transpose_b=True)
        loss: Array
        if ranks is None:
            loss, logsumexp = launch("softmax_cross_entropy", logits, targets)
        else:
            top = launch("cross_entropy_top", logits)
            ranks.all_reduce(top, op="max")
            sums = launch("cross_entropy_sums", logits, targets, top, start=first_row(self.parameters, self.border))
            ranks.all_reduce(sums)
            loss, logsumexp = launch("cross_entropy_of_sums", sums, top)
        tape.keep(x, logits, targets, logsumexp)
        return loss

    def backward(self, tape: Tape, *, scale: float) -> Array:
        """Gradient of x, of `scale` times the loss."""
        launch, table = self.parameters.device.launch, self.parameters.weights["token"]
        x, *kept = tape.take()
        start = first_row(self.parameters, self.border)
        dlogits = launch("cross_entropy_shard_gradient", *kept, start=start, scale=scale)
        self.parameters.add_gradients(("token",), "matmul", dlogits, x, transpose_a=True)
        return self.border.leave(launch("matmul", dlogits, table))
