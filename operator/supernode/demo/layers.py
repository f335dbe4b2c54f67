"""The layers of a GPT on one device: each has `forward`, and `backward` that gives the gradient of its input.

Activations are 2-D, (batch * sequence, hidden), in the model's dtype. A layer keeps what its backward pass needs and
puts the gradients of its parameters, in f32, into `Parameters.gradients`. Every line that computes is a launch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supernode.emulator.client import Array, Device


@dataclass
class Parameters:
    """Named weights of one replica and, after a backward pass, their gradients."""

    device: Device
    weights: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array] = field(default_factory=dict)

    def add_gradient(self, name: str, gradient: Array) -> None:
        """Add to the gradient of a weight; a weight may be used more than once (the tied embedding)."""
        held = self.gradients.get(name)
        self.gradients[name] = gradient if held is None else self.device.launch("add", held, gradient)


class Linear:
    """y = x w + b, with w (inputs, outputs)."""

    def __init__(self, parameters: Parameters, name: str) -> None:
        self.parameters = parameters
        self.weight, self.bias = f"{name}.weight", f"{name}.bias"

    def forward(self, x: Array) -> Array:
        """(rows, inputs) -> (rows, outputs)."""
        self.x = x
        weights = self.parameters.weights
        y: Array = self.parameters.device.launch("matmul", x, weights[self.weight], weights[self.bias])
        return y

    def backward(self, grad: Array) -> Array:
        """Gradient of x from the gradient of y."""
        launch = self.parameters.device.launch
        self.parameters.add_gradient(self.weight, launch("matmul", self.x, grad, transpose_a=True, dtype="f32"))
        self.parameters.add_gradient(self.bias, launch("sum", grad, axis=0, dtype="f32"))
        dx: Array = launch("matmul", grad, self.parameters.weights[self.weight], transpose_b=True)
        return dx


class LayerNorm:
    """Each row to mean 0 and deviation 1, then gain and bias per column."""

    def __init__(self, parameters: Parameters, name: str) -> None:
        self.parameters = parameters
        self.gain, self.bias = f"{name}.gain", f"{name}.bias"

    def forward(self, x: Array) -> Array:
        """Normalised rows."""
        weights = self.parameters.weights
        y: Array
        y, mean, rstd = self.parameters.device.launch("layer_norm", x, weights[self.gain], weights[self.bias])
        self.saved = (x, mean, rstd)
        return y

    def backward(self, grad: Array) -> Array:
        """Gradient of x from the gradient of y."""
        x, mean, rstd = self.saved
        gain = self.parameters.weights[self.gain]
        dx: Array
        dx, dgain, dbias = self.parameters.device.launch("layer_norm_backward", grad, x, gain, mean, rstd, dtype="f32")
        self.parameters.add_gradient(self.gain, dgain)
        self.parameters.add_gradient(self.bias, dbias)
        return dx


class Attention:
    """Causal self-attention with several heads."""

    def __init__(self, parameters: Parameters, name: str, *, heads: int, sequence: int) -> None:
        self.parameters = parameters
        self.heads, self.sequence = heads, sequence
        self.qkv = Linear(parameters, f"{name}.qkv")
        self.out = Linear(parameters, f"{name}.out")

    def forward(self, x: Array) -> Array:
        """Each position mixes what it may see: itself and those before it."""
        launch = self.parameters.device.launch
        tokens, hidden = x.shape
        self.shape = (tokens // self.sequence, self.sequence, self.heads, hidden // self.heads)
        batch, sequence, heads, size = self.shape
        # (batch, sequence, 3, heads, size) -> three times (batch, heads, sequence, size)
        qkv = self.qkv.forward(x).reshape((batch, sequence, 3, heads, size))
        parts = launch("split", launch("transpose", qkv, axes=(2, 0, 3, 1, 4)), sections=3)
        q, k, v = (part.reshape((batch, heads, sequence, size)) for part in parts)
        y, logsumexp = launch("attention", q, k, v, causal=True)
        self.saved = (q, k, v, y, logsumexp)
        return self.out.forward(launch("transpose", y, axes=(0, 2, 1, 3)).reshape((tokens, hidden)))

    def backward(self, grad: Array) -> Array:
        """Gradient of x from the gradient of the result."""
        launch = self.parameters.device.launch
        batch, sequence, heads, size = self.shape
        dy = self.out.backward(grad).reshape((batch, sequence, heads, size))
        dy = launch("transpose", dy, axes=(0, 2, 1, 3))
        parts = launch("attention_backward", dy, *self.saved, causal=True)
        stacked = launch("concatenate", *(part.reshape((1, batch, heads, sequence, size)) for part in parts))
        dqkv = launch("transpose", stacked, axes=(1, 3, 0, 2, 4))
        return self.qkv.backward(dqkv.reshape((batch * sequence, 3 * heads * size)))


class MLP:
    """Two linear layers with a GELU between them."""

    def __init__(self, parameters: Parameters, name: str) -> None:
        self.parameters = parameters
        self.up = Linear(parameters, f"{name}.up")
        self.down = Linear(parameters, f"{name}.down")

    def forward(self, x: Array) -> Array:
        """(rows, hidden) -> (rows, 4 hidden) -> (rows, hidden)."""
        self.wide = self.up.forward(x)
        return self.down.forward(self.parameters.device.launch("gelu", self.wide))

    def backward(self, grad: Array) -> Array:
        """Gradient of x from the gradient of the result."""
        grad = self.down.backward(grad)
        return self.up.backward(self.parameters.device.launch("gelu_backward", grad, self.wide))


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, parameters: Parameters, name: str, *, heads: int, sequence: int) -> None:
        self.parameters = parameters
        self.norm1 = LayerNorm(parameters, f"{name}.norm1")
        self.attention = Attention(parameters, f"{name}.attention", heads=heads, sequence=sequence)
        self.norm2 = LayerNorm(parameters, f"{name}.norm2")
        self.mlp = MLP(parameters, f"{name}.mlp")

    def forward(self, x: Array) -> Array:
        """The block on the residual stream x."""
        launch = self.parameters.device.launch
        x = launch("add", x, self.attention.forward(self.norm1.forward(x)))
        y: Array = launch("add", x, self.mlp.forward(self.norm2.forward(x)))
        return y

    def backward(self, grad: Array) -> Array:
        """Gradient of x from the gradient of the result."""
        launch = self.parameters.device.launch
        grad = launch("add", grad, self.norm2.backward(self.mlp.backward(grad)))
        dx: Array = launch("add", grad, self.norm1.backward(self.attention.backward(grad)))
        return dx
