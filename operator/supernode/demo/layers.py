"""The layers of a GPT on one device: `forward`, and `backward` that gives the gradient of its input.

Activations are 2-D, (batch * sequence, hidden), in the model's dtype. A layer keeps what its backward pass needs on a
`Tape` and adds the gradients of its parameters, in f32, to `Parameters`. Every line that computes is a launch.

Where several devices share the matrices (tensor parallelism, Shoeybi et al., "Megatron-LM", 2019) a layer sees its
part of them, and `Border` has the collectives: those who work between `enter` and `leave` hold parts, the others all
of it, or a share of the rows (sequence parallelism, Korthikanti et al., 2022).
"""

from __future__ import annotations

from supernode.demo.parameters import Parameters
from supernode.demo.tape import Tape
from supernode.emulator.client import Array, Member


class Border:
    """Around what tensor ranks share.

    Args:
        ranks: the group of the tensor ranks; None: this device holds everything.
        rows: outside, each rank has its share of the rows only.

    Attributes:
        first: this device is the first of the ranks, or the only one: what is to be added once is added here.
    """

    def __init__(self, ranks: Member | None = None, *, rows: bool = False) -> None:
        self.ranks = ranks
        self.rows = rows
        self.first = ranks is None or ranks.place == 0

    def enter(self, x: Array) -> Array:
        """What every rank needs all of; also the gradient of `leave`."""
        if self.ranks is None or not self.rows:
            return x
        gathered = self.ranks.all_gather(x)
        return gathered.reshape((-1, x.shape[-1]))

    def leave(self, part: Array) -> Array:
        """The sum of all ranks' parts; also the gradient of `enter`."""
        if self.ranks is None:
            return part
        if self.rows:
            return self.ranks.reduce_scatter(part)
        self.ranks.all_reduce(part)
        return part


class Linear:
    """y = x w + b, with w (inputs, outputs) or this rank's columns of it."""

    def __init__(self, parameters: Parameters, name: str) -> None:
        self.parameters = parameters
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"

    def forward(self, x: Array, tape: Tape) -> Array:
        """(rows, inputs) -> (rows, outputs)."""
        tape.keep(x)
        weights = self.parameters.weights
        y: Array = self.parameters.device.launch("matmul", x, weights[self.weight], weights[self.bias])
        return y

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of x from the gradient of y."""
        (x,) = tape.take()
        self.parameters.add_gradients((self.weight, self.bias), "linear_gradient", x, grad)
        dx: Array = self.parameters.device.launch(
            "matmul", grad, self.parameters.weights[self.weight], transpose_b=True
        )
        return dx


class RowLinear(Linear):
    """A linear layer that ends what tensor ranks share: w is this rank's rows, and the first rank's part has the bias,
    so that the sum has it once.
    """

    def __init__(self, parameters: Parameters, name: str, border: Border) -> None:
        super().__init__(parameters, name)
        self.border = border

    def forward(self, x: Array, tape: Tape) -> Array:
        """(rows, this rank's inputs) -> (rows or this rank's share of them, outputs)."""
        if self.border.first:
            return self.border.leave(super().forward(x, tape))
        tape.keep(x)
        return self.border.leave(self.parameters.device.launch("matmul", x, self.parameters.weights[self.weight]))

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of this rank's inputs."""
        if self.border.ranks is None:
            return super().backward(grad, tape)
        (x,) = tape.take()
        if not self.border.rows:
            self.parameters.add_gradients((self.weight, self.bias), "linear_gradient", x, grad)
        else:
            self.parameters.add_gradients((self.bias,), "sum", grad, axis=0)
            grad = self.border.enter(grad)
            self.parameters.add_gradients((self.weight,), "matmul", x, grad, transpose_a=True)
        dx: Array = self.parameters.device.launch(
            "matmul", grad, self.parameters.weights[self.weight], transpose_b=True
        )
        return dx


class LayerNorm:
    """Each row to mean 0 and deviation 1, then gain and bias per column."""

    def __init__(self, parameters: Parameters, name: str) -> None:
        self.parameters = parameters
        self.gain, self.bias = f"{name}.gain", f"{name}.bias"

    def forward(self, x: Array, tape: Tape) -> Array:
        """Normalised rows."""
        weights = self.parameters.weights
        y: Array
        y, mean, rstd = self.parameters.device.launch("layer_norm", x, weights[self.gain], weights[self.bias])
        tape.keep(x, mean, rstd)
        return y

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of x from the gradient of y."""
        x, mean, rstd = tape.take()
        gain = self.parameters.weights[self.gain]
        dx = self.parameters.device.empty(x.shape, x.dtype)
        names = self.gain, self.bias
        self.parameters.add_gradients(names, "layer_norm_backward", grad, x, gain, mean, rstd, also=(dx,))
        return dx


class Attention:
    """Causal self-attention with several heads; tensor ranks have some heads each."""

    def __init__(self, parameters: Parameters, name: str, border: Border, *, heads: int, sequence: int) -> None:
        self.parameters = parameters
        self.border = border
        self.heads, self.sequence = heads, sequence
        self.qkv = Linear(parameters, f"{name}.qkv")
        self.out = RowLinear(parameters, f"{name}.out", border)

    def forward(self, x: Array, tape: Tape) -> Array:
        """Each position mixes what it may see: itself and those before it."""
        qkv = self.qkv.forward(self.border.enter(x), tape)
        rows, width = qkv.shape
        size = width // (3 * self.heads)
        qkv = qkv.reshape((rows // self.sequence, self.sequence, 3, self.heads, size))
        y, logsumexp = self.parameters.device.launch("attention_qkv", qkv, causal=True)
        tape.keep(qkv, y, logsumexp)
        return self.out.forward(y.reshape((rows, self.heads * size)), tape)

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of x from the gradient of the result."""
        dy = self.out.backward(grad, tape)
        qkv, y, logsumexp = tape.take()
        launch = self.parameters.device.launch
        dqkv = launch("attention_qkv_backward", dy.reshape(y.shape), qkv, y, logsumexp, causal=True)
        return self.border.leave(self.qkv.backward(dqkv.reshape((dy.shape[0], -1)), tape))


class MLP:
    """Two linear layers with a GELU between them."""

    def __init__(self, parameters: Parameters, name: str, border: Border) -> None:
        self.parameters = parameters
        self.border = border
        self.up = Linear(parameters, f"{name}.up")
        self.down = RowLinear(parameters, f"{name}.down", border)

    def forward(self, x: Array, tape: Tape) -> Array:
        """(rows, hidden) -> (rows, 4 hidden) -> (rows, hidden)."""
        wide = self.up.forward(self.border.enter(x), tape)
        tape.keep(wide)
        return self.down.forward(self.parameters.device.launch("gelu", wide), tape)

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of x from the gradient of the result."""
        grad = self.down.backward(grad, tape)
        (wide,) = tape.take()
        grad = self.parameters.device.launch("gelu_backward", grad, wide)
        return self.border.leave(self.up.backward(grad, tape))


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        recompute: keep only x, and run forward again before the backward pass.
    """

    def __init__(
        self, parameters: Parameters, name: str, border: Border, *, heads: int, sequence: int, recompute: bool = False
    ) -> None:
        self.parameters = parameters
        self.recompute = recompute
        self.norm1 = LayerNorm(parameters, f"{name}.norm1")
        self.attention = Attention(parameters, f"{name}.attention", border, heads=heads, sequence=sequence)
        self.norm2 = LayerNorm(parameters, f"{name}.norm2")
        self.mlp = MLP(parameters, f"{name}.mlp", border)

    def forward(self, x: Array, tape: Tape) -> Array:
        """The block on the residual stream x."""
        if self.recompute:
            tape.keep(x)
            tape = Tape()
        return self._forward(x, tape)

    def _forward(self, x: Array, tape: Tape) -> Array:
        launch = self.parameters.device.launch
        x = launch("add", x, self.attention.forward(self.norm1.forward(x, tape), tape))
        y: Array = launch("add", x, self.mlp.forward(self.norm2.forward(x, tape), tape))
        return y

    def backward(self, grad: Array, tape: Tape) -> Array:
        """Gradient of x from the gradient of the result."""
        if self.recompute:
            (x,) = tape.take()
            tape = Tape()
            self._forward(x, tape)
        launch = self.parameters.device.launch
        grad = launch("add", grad, self.norm2.backward(self.mlp.backward(grad, tape), tape))
        dx: Array = launch("add", grad, self.norm1.backward(self.attention.backward(grad, tape), tape))
        return dx
