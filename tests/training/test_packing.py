# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.training.packing import Packing

pytestmark = pytest.mark.usefixtures("device")
SHAPES = [(3, 4, 5), (), (1024,), (7,), (2, 2)]


class RoundTrip(nn.Cell):
    def __init__(self, packing):
        super().__init__()
        self.packing = packing

    def construct(self, *tensors):
        packed = self.packing.pack(tensors)
        return packed, self.packing.unpack(packed)


@pytest.mark.parametrize(("largest", "groups"), [(10**6, 1), (70, 3), (1, 5)])
def test_packed_and_unpacked_again(largest, groups):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    packing = Packing(SHAPES, largest)
    packed, found = RoundTrip(packing)(*map(Tensor, arrays))
    assert len(packed) == groups
    assert [x.shape for x in packed] == packing.packed_shapes()
    assert sum(float(x.asnumpy().sum()) for x in packed) == pytest.approx(
        sum(float(x.sum()) for x in arrays), rel=1e-4
    )
    for expected, one, other in zip(arrays, found, packing.unpack_arrays(packed)):
        np.testing.assert_array_equal(one.asnumpy(), expected)
        np.testing.assert_array_equal(other, expected)
    for x, y in zip(packed, packing.pack_arrays(arrays)):
        np.testing.assert_array_equal(x.asnumpy(), y)
