# SPDX-License-Identifier: Apache-2.0
"""Reading PyTorch files: what is read, and what is refused without being run."""

import os
import pickle

import numpy as np
import pytest
import torch

from src.formats.pytorch_keys import ConversionError
from src.formats.pytorch_weights import read_pytorch, write_pytorch

STATE = {
    "module.a.weight": torch.arange(5000.0, dtype=torch.float64),
    "module.b.weight": torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
    "module.steps": torch.tensor(7),
}


class Touch:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle"])
def test_code_is_refused_and_not_run(form, tmp_path):
    source, trace = tmp_path / "model.pth", tmp_path / "trace"
    content = {"unet1.layers.0.conv.weight": torch.zeros(1), "x": Touch(trace)}
    if form == "plain pickle":
        source.write_bytes(pickle.dumps(Touch(trace)))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=form == "zip")
    found = "other content" if form == "plain pickle" else r"a reference to \w+\.open"
    with pytest.raises(ConversionError, match=f"refused and not run, expected .*, found {found}"):
        read_pytorch(source)
    assert os.listdir(tmp_path) == ["model.pth"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files(legacy, share, tmp_path):
    source = tmp_path / "model.pth"
    torch.save(STATE, source, _use_new_zipfile_serialization=not legacy)
    content = source.read_bytes()
    source.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ConversionError, match=r"model\.pth: .*damage") as caught:
        read_pytorch(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_never_escape(legacy, tmp_path):
    """Whatever torch raises becomes a ConversionError; a file that still reads is no error."""
    source = tmp_path / "model.pth"
    torch.save({"a": torch.ones(3)}, source, _use_new_zipfile_serialization=not legacy)
    content, rng = source.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        for position in rng.integers(len(content), size=3):
            damaged[position] = int(rng.integers(256))
        source.write_bytes(damaged)
        try:
            read_pytorch(source)
        except ConversionError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_read(legacy, tmp_path):
    source = tmp_path / "model.pth"
    torch.save(STATE, source, _use_new_zipfile_serialization=not legacy)
    found = read_pytorch(source)
    assert list(found) == ["a.weight", "b.weight", "steps"]
    np.testing.assert_array_equal(found["a.weight"], np.arange(5000, dtype=np.float32))
    np.testing.assert_array_equal(found["b.weight"], np.float32([0.5, -2]))
    assert found["b.weight"].dtype == np.float32
    assert found["steps"].shape == ()


def test_shared_arrays_stay_shared_and_nothing_is_left_over(tmp_path):
    shared = np.arange(3, dtype=np.float32)
    state = {"a": shared, "b": shared, "c": shared.copy(), "n": np.zeros((), np.int64)}
    write_pytorch(state, tmp_path / "new" / "x.pth")
    back = torch.load(tmp_path / "new" / "x.pth", weights_only=True)
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["c"].data_ptr()
    assert (back["n"].dtype, back["n"].shape) == (torch.int64, ())
    assert os.listdir(tmp_path / "new") == ["x.pth"]
