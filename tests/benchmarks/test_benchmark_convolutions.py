# SPDX-License-Identifier: Apache-2.0
"""All forms of a 3x3 convolution that are timed give the same values."""

import mindspore as ms
import numpy as np
import pytest

from benchmarks.convolutions import Plain, Shifted, Unfolded


@pytest.mark.parametrize(
    ("form", "arrange"),
    [
        (Shifted, lambda w: w.transpose(2, 3, 0, 1).reshape(36, 4, 1, 1)),
        (Unfolded, lambda w: w.reshape(1, 4, 36)),
    ],
)
def test_forms_agree(form, arrange):
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 4, 3, 3)).astype(np.float32)
    x = ms.Tensor(random.normal(size=(2, 4, 7, 9)).astype(np.float32))
    plain, other = Plain(4), form(4)
    plain.conv.weight.set_data(ms.Tensor(weight))
    (parameter,) = (p for p in other.get_parameters() if p.ndim > 1)
    parameter.set_data(ms.Tensor(arrange(weight)))
    np.testing.assert_allclose(other(x).asnumpy(), plain(x).asnumpy(), atol=1e-5)
