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


class Rows:
    """This rank's rows of the table: which of some bytes are among them, and where."""

    def __init__(self, parameters: Parameters, border: Border) -> None:
        self.parameters = parameters
        self.ranks = border.ranks

    @property
    def count(self) -> int:
        """Number of rows here."""
        return self.parameters.weights["token"].shape[0]

    def find(self, tokens: Array) -> tuple[Array, Array]:
        """(row of each byte, 0 for those elsewhere; whether it is here), each in the shape of the tokens."""
        launch = self.parameters.device.launch
        first = 0 if self.ranks is None else self.ranks.place * self.count
        rows = launch("subtract", launch("cast", tokens, dtype="i32"), first)
        here = launch("logical_and", launch("greater_equal", rows, 0), launch("less", rows, self.count))
        return launch("clip", rows, low=0, high=self.count - 1), here


class Embedding:
    """Row of the byte plus row of the position."""

    def __init__(self, parameters: Parameters, border: Border) -> None:
        self.parameters = parameters
        self.border = border
        self.rows = Rows(parameters, border)

    def forward(self, tokens: Array, tape: Tape) -> Array:
        """(batch, sequence) -> (batch * sequence or this rank's share of the rows, hidden)."""
        launch, weights, ranks = self.parameters.device.launch, self.parameters.weights, self.border.ranks
        table, here = weights["token"], None
        if ranks is None:
            x = launch("embedding", table, tokens)
        else:
            tokens, here = self.rows.find(tokens)
            here = here.reshape((*tokens.shape, 1))
            x = launch("where", here, launch("embedding", table, tokens), self.parameters.device.zeros((), table.dtype))
            ranks.all_reduce(x)
        tape.keep(tokens, here)
        x = launch("add", x, weights["position"])
        return self.border.share(x.reshape((-1, table.shape[1])))

    def backward(self, grad: Array, tape: Tape) -> None:
        """Gradients of both tables."""
        launch = self.parameters.device.launch
        tokens, here = tape.take()
        grad = self.border.enter(grad).reshape((*tokens.shape, grad.shape[-1]))
        self.parameters.add_gradients(("position",), "sum", grad, axis=0)
        if here is not None:
            grad = launch("where", here, grad, self.parameters.device.zeros((), grad.dtype))
        self.parameters.add_gradients(("token",), "embedding_backward", grad, tokens, rows=self.rows.count)


class Head:
    """Scores of every byte, and their mean cross-entropy with the byte that came."""

    def __init__(self, parameters: Parameters, border: Border) -> None:
        self.parameters = parameters
        self.border = border
        self.rows = Rows(parameters, border)

    def forward(self, x: Array, targets: Array, tape: Tape) -> Array:
        """Mean loss, f32, of rows x (rows, hidden) against targets (rows,)."""
        launch, ranks = self.parameters.device.launch, self.border.ranks
        x = self.border.enter(x)
        logits = launch("matmul", x, self.parameters.weights["token"], transpose_b=True)
        loss: Array
        if ranks is None:
            loss, logsumexp = launch("softmax_cross_entropy", logits, targets)
            tape.keep(x, logits, targets, logsumexp)
            return loss
        scores = launch("cast", logits, dtype="f32")
        top = launch("max", scores, axis=1, keepdims=True)
        ranks.all_reduce(top, op="max")
        total = launch("sum", launch("exp", launch("subtract", scores, top)), axis=1, keepdims=True)
        ranks.all_reduce(total)
        logsumexp = launch("add", launch("log", total), top)
        local, here = self.rows.find(targets)
        local, here = local.reshape((-1, 1)), here.reshape((-1, 1))
        chosen = launch("take_along_axis", scores, local, axis=1)
        chosen = launch("where", here, chosen, self.parameters.device.zeros((), "f32"))
        ranks.all_reduce(chosen)
        tape.keep(x, scores, local, here, logsumexp)
        loss = launch("mean", launch("subtract", logsumexp, chosen))
        return loss

    def backward(self, tape: Tape, *, scale: float) -> Array:
        """Gradient of x, of `scale` times the loss."""
        launch, ranks = self.parameters.device.launch, self.border.ranks
        table = self.parameters.weights["token"]
        if ranks is None:
            x, logits, targets, logsumexp = tape.take()
            dlogits = launch("softmax_cross_entropy_backward", logits, targets, logsumexp, scale=scale)
        else:
            x, scores, local, here, logsumexp = tape.take()
            columns = launch("arange", start=0, stop=self.rows.count, dtype=local.dtype).reshape((1, -1))
            hit = launch("logical_and", launch("equal", columns, local), here)
            share = launch("exp", launch("subtract", scores, logsumexp))
            dlogits = launch("subtract", share, launch("cast", hit, dtype="f32"))
            dlogits = launch("cast", launch("scale", dlogits, factor=scale / scores.shape[0]), dtype=table.dtype)
        self.parameters.add_gradients(("token",), "matmul", dlogits, x, transpose_a=True)
        return self.border.leave(launch("matmul", dlogits, table))
