"""Writes the models of this folder, each with inputs and what PyTorch makes of them: `python export.py`, with torch
(2.15) and onnx (1.23) installed. The tests read the files and need neither torch nor this script.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name

HERE = Path(__file__).parent


class Residual(nn.Module):
    """Two convolutions, one of them in groups, and a shortcut."""

    def __init__(self, channels, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in range(2)])
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=4)
        self.short = nn.Conv2d(channels, outputs, 1, stride)

    def forward(self, x):
        h = F.silu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(h)) + self.short(x))


class Images(nn.Module):
    """Norms, transposed convolution, resizing, sampling, padding."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)
        self.group, self.instance, self.slope = nn.GroupNorm(2, 8), nn.InstanceNorm2d(4, affine=True), nn.PReLU(4)

    def forward(self, x):
        h = F.mish(self.group(self.down(x)))
        return (
            self.slope(self.instance(self.up(h))),
            F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
            F.interpolate(x, size=(10, 9), mode="bicubic"),
            F.pixel_shuffle(h, 2),
            F.pad(x, (1, 2, 0, 3), mode="reflect"),
            F.grid_sample(x, torch.tanh(x[:, :2].permute(0, 2, 3, 1)), align_corners=False),
        )


class Decoder(nn.Module):
    """A small GPT with what is done with its scores."""

    def __init__(self, width=16):
        super().__init__()
        self.tokens, self.places = nn.Embedding(40, width), nn.Embedding(16, width)
        self.layers = nn.ModuleList([nn.Linear(width, 3 * width) for _ in range(2)])
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 40)

    def forward(self, ids):
        batch, count = ids.shape
        x = self.tokens(ids) + self.places(torch.arange(count))
        for layer in self.layers:
            q, k, v = layer(self.norm(x)).view(batch, count, 3, 4, 4).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + seen.transpose(1, 2).reshape(batch, count, 16)
        h = self.out(x)
        return h, torch.topk(torch.softmax(h[:, -1], -1), 5), torch.argmax(h, -1), h.masked_fill(h < 0, -1.0)


class Recurrent(nn.Module):
    """Three kinds of recurrent layers."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True)
        self.gru, self.rnn = nn.GRU(12, 4), nn.RNN(4, 3, nonlinearity="relu")

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        z, last = self.gru(y)
        return y, h, c, z, last, self.rnn(z)[0]


class Assorted(nn.Module):
    """Selection, sorting, sums, rounding, conversion."""

    def forward(self, x, i):
        zeros = torch.zeros_like(x)
        return (
            torch.einsum("bij,bkj->bik", x, x),
            torch.gather(x, 2, i),
            zeros.scatter(2, i, 1.0),
            zeros.scatter_add(2, i, x[:, :, :3]),
            torch.sort(x, dim=-1)[0],
            torch.unique(i),
            torch.nonzero(x > 0),
            x[x > 0.5],
            torch.tril(x),
            torch.roll(x, 1, -1),
            torch.flip(x, [1]),
            x.std(-1),
            torch.logsumexp(x, -1),
            F.one_hot(i, 5),
            torch.clamp(x, -0.5, 0.5),
            torch.round(x),
            x.norm(dim=-1),
            torch.prod(x, 1),
            torch.cumsum(x, 1),
            F.hardswish(x),
            F.softplus(x),
            torch.fmod(x, 0.3),
            torch.remainder(x, 0.3),
            x.to(torch.int32),
            x.half().float(),
            torch.linalg.det(x),
        )


class Turns(nn.Module):
    """A loop with a branch, both by data."""

    def forward(self, x, n: torch.Tensor):
        y = x
        for _ in range(int(n)):
            if bool(y.sum() > 10):
                y = y * 0.5
            else:
                y = y * 2 + 1
        return y


class Pools(nn.Module):
    """Windows of all kinds over one axis."""

    def forward(self, x):
        return (
            F.max_pool1d(x, 3, 2, 1, ceil_mode=True),
            F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
            F.max_pool2d(x[None], 2, return_indices=True)[1],
            F.lp_pool1d(x, 2.0, 3, 2),
            F.unfold(x[None], 2),
            F.adaptive_avg_pool1d(x, 5),
            F.glu(x, 1),
            F.layer_norm(x, (20,)),
            F.local_response_norm(x, 3),
            F.cosine_similarity(x, x + 1, dim=1),
        )


def save(name, model, args, **options):
    model.eval()
    torch.onnx.export(model, args, HERE / f"{name}.onnx", dynamo=False, opset_version=18, **options)
    with torch.no_grad():
        found = model(*args)
    flat = []
    for part in found if isinstance(found, tuple | list) else (found,):
        flat += list(part) if isinstance(part, tuple | list) else [part]
    given = {f"in{i}": value.numpy() for i, value in enumerate(args)}
    np.savez_compressed(HERE / f"{name}.npz", **given, **{f"out{i}": value.numpy() for i, value in enumerate(flat)})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    images = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3), nn.MaxPool2d(3, 2, 1), Residual(8, 16, 2), Residual(16, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu", norm_first=True)
    batch, both = {"x": {0: "n"}}, {"x": {0: "n", 1: "t"}}
    save("residual", images, (torch.randn(2, 3, 32, 32),), input_names=["x"], dynamic_axes=batch)
    save("images", Images(), (torch.randn(1, 3, 8, 8),))
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    save("encoder", encoder, (torch.randn(2, 7, 16),), input_names=["x"], dynamic_axes=both)
    ids = torch.randint(0, 40, (2, 9))
    save("decoder", Decoder(), (ids,), input_names=["x"], dynamic_axes=both)
    save("recurrent", Recurrent(), (torch.randn(3, 5, 4),), input_names=["x"], dynamic_axes=both)
    save("assorted", Assorted(), (torch.randn(2, 4, 4), torch.randint(0, 4, (2, 4, 3))))
    save("turns", torch.jit.script(Turns()), (torch.randn(3, 3), torch.tensor(5)))
    save("pools", Pools(), (torch.randn(2, 4, 20).abs(),))
