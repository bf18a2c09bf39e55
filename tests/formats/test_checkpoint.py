# SPDX-License-Identifier: Apache-2.0
import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.config import ConfigError, get_config
from src.formats.checkpoint import (
    CheckpointError,
    Labels,
    load_labels,
    load_weights,
    read_checkpoint,
    resolve_config,
    save_checkpoint,
    save_config,
)
from src.runtime.files import write_atomically, write_json

pytestmark = pytest.mark.usefixtures("device")


class Small(nn.Cell):
    def __init__(self, outputs=3):
        super().__init__()
        self.dense = nn.Dense(2, outputs)
        self.norm = nn.BatchNorm1d(outputs)


def values(net):
    return {name: p.asnumpy().copy() for name, p in net.parameters_dict().items()}


@pytest.fixture(params=["ckpt", "safetensors"])
def saved(request, tmp_path):
    net = Small()
    path = tmp_path / f"net.{request.param}"
    save_checkpoint(net.parameters_dict(), path)
    return net, path


def test_round_trip(saved):
    net, path = saved
    other = Small()
    load_weights(other, path)
    for name, value in values(net).items():
        np.testing.assert_array_equal(values(other)[name], value)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file


def test_the_first_mismatches_are_named_and_the_others_counted(saved):
    _, path = saved
    with pytest.raises(CheckpointError) as caught:
        load_weights(Small(4), path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(" has shape ") == 3
    assert re.search(r"; and \d+ more$", message)
    assert "(3, 2)" in message
    assert "(4, 2)" in message


def test_missing_and_unknown_names(tmp_path):
    content = dict(Small().parameters_dict())
    content["other"] = content.pop("dense.bias")
    save_checkpoint(content, tmp_path / "net.ckpt")
    net = Small()
    before = values(net)
    with pytest.raises(CheckpointError, match=r"dense\.bias is missing.*other is not a parameter"):
        load_weights(net, tmp_path / "net.ckpt")
    for name, value in values(net).items():
        np.testing.assert_array_equal(value, before[name])


def test_nan_weights_are_refused(tmp_path):
    content = {n: Tensor(p.asnumpy()) for n, p in Small().parameters_dict().items()}
    content["dense.bias"] = Tensor([1.0, np.nan, 0.0], ms.float32)
    save_checkpoint(content, tmp_path / "net.ckpt")
    with pytest.raises(CheckpointError, match=r"dense\.bias"):
        load_weights(Small(), tmp_path / "net.ckpt")


def test_only_a_prefix(tmp_path):
    content = {f"backbone.{n}": p for n, p in Small().parameters_dict().items()}
    content["head.weight"] = Tensor([1.0], ms.float32)
    save_checkpoint(content, tmp_path / "net.ckpt")
    owner = nn.Cell()
    owner.backbone = Small()
    load_weights(owner.backbone, tmp_path / "net.ckpt", prefix="backbone.")
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        load_weights(owner.backbone, tmp_path / "net.ckpt")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flip"])
def test_damaged_files(saved, damage):
    _net, path = saved
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        if path.suffix == ".safetensors":
            pytest.skip("safetensors has no checksum")
        raw[len(raw) // 2] ^= 1
    path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "text": b"hello"}.get(damage, raw))
    expected = "holds no parameters" if damage == "empty" else "damaged, or no checkpoint"
    with pytest.raises(CheckpointError, match=rf"{path.name} .*{expected}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_200_flipped_bits_and_20_truncations_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "net.ckpt"
    content = {f"layer.{n}.weight": Tensor(rng.normal(size=(40, 9))) for n in range(8)}
    save_checkpoint({**content, "state/run": Tensor(np.arange(200, dtype=np.uint8))}, path)
    good = path.read_bytes()
    damaged = [bytearray(good) for _ in range(200)]
    for raw, bit in zip(damaged, rng.choice(8 * len(good), 200, replace=False)):
        raw[bit // 8] ^= 1 << (bit % 8)
    damaged += [bytearray(good[:end]) for end in rng.choice(len(good), 20, replace=False)]
    accepted, messages = [], []
    for number, raw in enumerate(damaged):
        path.write_bytes(raw)
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            messages.append(str(error))
        else:
            accepted.append(number)
    assert not accepted
    assert not any("\n" in message for message in messages)
    path.write_bytes(good)
    assert len(read_checkpoint(path)) == 9


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("Failed to save.\n[Errno 28] No space left on device"), "No space left"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_a_failed_save_is_one_line_and_leaves_the_old_file(saved, monkeypatch, error, text):
    _net, path = saved
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(ms, "save_checkpoint", fail)
    with pytest.raises(OSError, match=text) as caught:
        save_checkpoint(Small().parameters_dict(), path)
    assert str(path) in str(caught.value) or caught.value is error
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_missing_file_and_bad_ending(tmp_path):
    with pytest.raises(CheckpointError, match="not found"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save_checkpoint(Small().parameters_dict(), tmp_path / "net.pth")
    assert not list(tmp_path.iterdir())


def test_config_and_labels_beside_a_checkpoint(tmp_path):
    config = get_config("m2det_tiny", ["model.num_classes=3"])
    labels = Labels(("Katze", "犬"), (7, 9))
    save_config(tmp_path / "run", config, labels)
    checkpoint = tmp_path / "run" / "x.ckpt"
    assert resolve_config(None, [], checkpoint) == config
    assert resolve_config(None, ["train.lr=1"], checkpoint).train.lr == 1
    assert resolve_config("m2det320_vgg16", [], checkpoint).model.input_size == 320
    assert load_labels(checkpoint) == labels
    path = tmp_path / "run" / "labels.json"  # editors of Windows put a mark before the text
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_labels(checkpoint) == labels
    assert load_labels(tmp_path / "x.ckpt") is None
    with pytest.raises(CheckpointError, match=r"checkpoint .*x\.ckpt not found"):
        resolve_config(None, [], tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(ConfigError, match=r"config\.json not found"):
        resolve_config(None, [], tmp_path / "x.ckpt")
    (tmp_path / "x.ONNX").touch()
    with pytest.raises(CheckpointError, match=r"x\.ONNX: expected a checkpoint"):
        resolve_config(None, [], tmp_path / "x.ONNX")


@pytest.mark.parametrize("content", [b'{"a": "\xe9"}', b"[" * 100_000])
def test_an_odd_configuration_is_named(tmp_path, content):
    (tmp_path / "x.ckpt").touch()
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: "):
        resolve_config(None, [], tmp_path / "x.ckpt")
    (tmp_path / "labels.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"labels\.json: "):
        load_labels(tmp_path / "x.ckpt")


@pytest.mark.parametrize("name", ["a\nb", "\u202eb", "\x1b[31m", "", "  "])
def test_class_names_that_would_spoil_the_terminal_are_refused(tmp_path, name):
    write_json(tmp_path / "labels.json", {"class_names": [name], "category_ids": [1]})
    with pytest.raises(CheckpointError, match="class name") as caught:
        load_labels(tmp_path / "x.ckpt")
    assert str(caught.value).isprintable()


def test_three_mismatches_are_named_and_the_preset(tmp_path):
    net = Small()
    other = {f"x{i}": Tensor(np.zeros(1, np.float32)) for i in range(9)}
    save_checkpoint(other, tmp_path / "a.ckpt")
    save_config(tmp_path, get_config("m2det_tiny"))
    with pytest.raises(CheckpointError, match=r"; and \d+ more .*m2det_tiny") as caught:
        load_weights(net, tmp_path / "a.ckpt")
    assert str(caught.value).count(" is missing") == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[1]", '{"class_names": 3, "category_ids": [1]}'),
        '{"class_names": "ab", "category_ids": [1, 2]}',
        '{"class_names": [true], "category_ids": [1]}',
        '{"class_names": ["a"], "category_ids": [1.5]}',
        '{"class_names": ["a", "a"], "category_ids": [1, 2]}',
        '{"class_names": ["a", "b"], "category_ids": [2, 2]}',
    ],
)
def test_damaged_labels(tmp_path, text):
    write_atomically(tmp_path / "labels.json", text)
    with pytest.raises(ValueError, match=r"labels\.json"):
        load_labels(tmp_path / "x.ckpt")
