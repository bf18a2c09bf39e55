# SPDX-License-Identifier: Apache-2.0
"""Work-arounds for faults of MindSpore's GPU back end, for the releases 2.7.2 to 2.10.0.

Whether a fault is still there in another release: the first two functions' faults show without a
GPU, `pytest -m slow tests/runtime/test_fake_gpu.py -k fault` fails where one is gone. The other two
need a GPU and say how below.
"""

from typing import Tuple

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.device_context.gpu import op_precision

LARGEST = 3.0e38  # nearly the largest float32


def set_gpu_context(allow_tf32: bool = False) -> None:
    """Keep float16 networks in the layout NCHW, and float32 convolutions in float32.

    From compute capability 7.0 on MindSpore turns float16 convolutions to NHWC by itself. That
    misreads a dilation (conv6 of VGG-16: "dilation[kIndex3]: 6") and loses count of the inputs of
    a BatchNorm joined with an addition (ResNet in O3: "Invalid new ref count:0 for decrease").

    Its default for float32 convolutions, not for matrix products, is TF32, from 8.0 on.
    """
    ms.set_context(disable_format_transform=True)
    op_precision.conv_allow_tf32(allow_tf32)


class UnusedSum(nn.Cell):
    """The sum of x over all ranks, for the caller to return from the graph and use nowhere in it.

    With two or more AllReduce in a graph the back end puts them on a second stream and fails on the
    nodes it inserts to wait for it ("The pointer[send_actor] is null"), unless there is one whose
    result no other node takes: then all stay on one stream. Every graph with an AllReduce needs
    one, of an x that is summed nowhere else in it: two equal AllReduce would become one. The price:
    communication does not run beside computation.
    """

    def __init__(self, world_size: int = 1) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM) if world_size > 1 else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)


class InferBatchNorm(nn.Cell):
    """BatchNorm by the running averages, for a layer of a float16 network: on a GPU float16 inputs
    want statistics, gamma and beta of float32 ("Unsupported data type").

    To be made after the network was turned to float16, so that it is left as it is.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        # in a tuple, so that they remain the layer's alone
        self.shared = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        self.infer = ops.BatchNorm(is_training=False, epsilon=norm.eps)

    def construct(self, x: Tensor, *_: Tensor) -> Tuple[Tensor, ...]:
        return self.infer(x, *self.shared)


def zero_unless(switch: Tensor, x: Tensor) -> Tensor:
    """x where `switch` () is 1, zeros where it is 0, even for what is not finite.

    `MulNoNan(x, y)` on a GPU is 0 for every |y| below 2e-7, so y must not be a factor that can be
    small, such as a gradient's: clipping factor over loss scale. Still there where on a GPU
    `ops.MulNoNan()(Tensor(1.0), Tensor(1e-7))` is 0.
    """
    return ops.MulNoNan()(x, switch)


def sortable(x: Tensor) -> Tensor:
    """x with a very large number in the place of each that is not finite.

    `ops.sort` of more than 4,096 values on a GPU is a TopK that never ends when one of them is NaN
    or infinite (and takes float16 and float32 only). Still there where on a GPU
    `ops.sort(ops.full((8192,), float("nan")))` does not return.
    """
    return ops.select(ops.isfinite(x), x, ops.full_like(x, LARGEST))
