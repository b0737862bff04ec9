"""The convolutional networks as CPUs run them: larger products, less memory.

`kernels.optimize` puts these classes in the place of the plain ones in `models/vision.py` and
`models/encoder.py`, which say what is computed.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dreamer.distributions import HALF_LOG_TAU
from dreamer.kernels.chunked import chunked_scores, split
from dreamer.kernels.hooks import has_hooks
from dreamer.models.observations import Decoder
from dreamer.models.vision import STRIDE, ConvEncoder, preprocess

FEW_PIXELS = 4  # with more, torch's own convolution is as fast
FEW_CHANNELS = 4  # an image's; with more, torch's own transposed convolution is as fast


class ChunkedConvEncoder(ConvEncoder):
    """Images in chunks, channels last in memory; activations overwrite what they read.

    An update at full size needs a quarter less memory. In the plain encoder nothing is overwritten,
    so that a hook may keep what it sees.
    """

    def forward(self, image: Tensor) -> Tensor:
        """(..., C, 64, 64), bytes or floats -> (..., M)."""
        has_norms = any(type(norm.norm) is not nn.Identity for norm in self.norms)  # pyright: ignore
        if has_norms or has_hooks(self):
            return super().forward(image)
        chunks = [self._encode(chunk) for chunk in split(image.flatten(0, -4))]
        return torch.cat(chunks).unflatten(0, image.shape[:-3])

    def _encode(self, image: Tensor) -> Tensor:
        """(n, C, 64, 64) -> (n, M)."""
        x = preprocess(image)
        n, channels, height, width = x.shape
        if channels == 1:  # both layouts at once: choose, or what follows is reordered
            x = x.view(n, height, width, 1).permute(0, 3, 1, 2)
        x = x.contiguous(memory_format=torch.channels_last)
        activation = {F.elu: F.elu_, F.relu: F.relu_}.get(self.activation, self.activation)
        for conv in self.convs:
            x = activation(conv(x))
        return x.permute(0, 2, 3, 1).flatten(1)


class CpuConv2d(nn.Conv2d):
    """A convolution of stride 2 that makes few pixels: a matrix product of its patches."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', (h - k) // 2 + 1, (w - k) // 2 + 1)."""
        kernel = self.kernel_size[0]
        rows, columns = ((size - kernel) // STRIDE + 1 for size in input.shape[-2:])
        if not 1 <= rows * columns <= FEW_PIXELS:
            return super().forward(input)
        x = input.permute(0, 2, 3, 1)
        corners = [(STRIDE * i, STRIDE * j) for i in range(rows) for j in range(columns)]
        patches = torch.stack([x[:, i : i + kernel, j : j + kernel] for i, j in corners], 1)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C', k * k * C)
        x = F.linear(patches.flatten(2).flatten(0, 1), weight, self.bias)
        return x.view(len(input), rows, columns, self.out_channels).permute(0, 3, 1, 2)


class CpuConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 in the form that is fastest for its size."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, h, w) -> (N, C', 2 h + k - 2, 2 w + k - 2)."""
        assert output_size is None and self.bias is not None
        if input.shape[-2:] == (1, 1):
            return self._of_one_pixel(input)
        if self.out_channels <= FEW_CHANNELS and self.kernel_size[0] % STRIDE == 0:
            return self._by_sub_pixels(input)
        x = F.conv_transpose2d(input, self.weight, stride=STRIDE)
        return x.add_(self.bias[:, None, None].to(x.dtype))  # the bias apart is faster

    def _of_one_pixel(self, x: Tensor) -> Tensor:
        """A matrix product: (N, C, 1, 1) -> (N, C', k, k)."""
        kernel = self.kernel_size[0]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C, k * k * C')
        bias = self.bias.repeat(kernel**2)  # pyright: ignore[reportOptionalMemberAccess]
        x = F.linear(x.flatten(1), weight.t(), bias)
        return x.unflatten(1, (kernel, kernel, -1)).permute(0, 3, 1, 2)

    def _by_sub_pixels(self, x: Tensor) -> Tensor:
        """A plain convolution that makes the four pixels of every 2 x 2 block, in float32.

        (N, C, h, w) -> (N, C', 2 h + k - 2, 2 w + k - 2).
        """
        inputs, outputs, kernel, _ = self.weight.shape
        taps = kernel // STRIDE
        weight = self.weight.reshape(inputs, outputs, taps, STRIDE, taps, STRIDE).flip(2, 4)
        weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C' * 4, C, taps, taps)
        bias = self.bias.repeat_interleave(STRIDE**2)  # pyright: ignore[reportOptionalMemberAccess]
        with torch.autocast("cpu", enabled=False):  # few channels are slow in bfloat16
            x = F.conv2d(x.float(), weight, bias, padding=taps - 1)
        return F.pixel_shuffle(x, STRIDE)


class ChunkedDecoder(Decoder):
    """The log-density of a single image observation in chunks, its gradient included."""

    def log_prob(self, features: Tensor, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Decoder`; with hooks, or several image observations, it is the plain form."""
        if len(self.image_keys) != 1 or has_hooks(self):
            return super().log_prob(features, obs)
        (key,) = self.image_keys
        decoder = self.image
        # The first layers make one large product of all rows: a chunk's would be too small.
        x = decoder.dense(features.flatten(0, -2))[..., None, None]
        x = decoder.activation(decoder.norms[0](decoder.convs[0](x)))
        parameters = [*decoder.convs[1:].parameters(), *decoder.norms[1:].parameters()]
        parameters = [p for p in parameters if p.requires_grad]
        scores = chunked_scores(self._score, x, obs[key].flatten(0, -4), parameters)
        log_probs = {key: scores.unflatten(0, features.shape[:-1])}
        for name, distribution in self.vectors(features).items():
            log_probs[name] = distribution.log_prob(preprocess(obs[name]))
        return log_probs

    def _score(self, x: Tensor, image: Tensor) -> Tensor:
        """First layers' outputs (n, C', h, w), images (n, C, 64, 64) -> (n,) in nats."""
        decoder = self.image
        *inner, last = decoder.convs[1:]
        for conv, norm in zip(inner, decoder.norms[1:], strict=True):
            x = decoder.activation(norm(conv(x)))
        return unit_normal_log_prob(last(x).float(), preprocess(image))


def unit_normal_log_prob(mean: Tensor, value: Tensor) -> Tensor:
    """Log-density under normals of standard deviation 1, (N, *event) twice -> (N,) in nats.

    That of `Normal(mean, 1.0)` with fewer passes over what may be millions of pixels. Gradients
    flow into the mean only.
    """
    log_probs = _UnitNormal.apply(mean, value)
    assert isinstance(log_probs, Tensor)
    return log_probs


class _UnitNormal(torch.autograd.Function):
    """torch's own squared error has a gradient whose memory is always channels first."""

    @staticmethod
    def forward(ctx, mean: Tensor, value: Tensor) -> Tensor:
        errors = value - mean
        ctx.save_for_backward(errors)
        event = tuple(range(1, value.ndim))
        return -0.5 * errors.square().sum(event) - value[0].numel() * HALF_LOG_TAU

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_outputs: Tensor):
        (grad,) = grad_outputs  # (N,)
        (errors,) = ctx.saved_tensors
        return errors * grad.view(-1, *[1] * (errors.ndim - 1)), None
