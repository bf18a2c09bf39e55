# SPDX-License-Identifier: Apache-2.0
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.formats.checkpoint import STATE_PREFIX, CheckpointError, save_checkpoint
from src.training.ema import Ema
from src.training.optimizers import SGD, DynamicLossScale
from src.training.resume import OtherRun, Resumable, compare_fingerprints, load_fitting

pytestmark = pytest.mark.usefixtures("device")
FINGERPRINT = {"classes": ["cat", "dog"], "world_size": 2, "schedule": ["cosine", 0.1]}


class Small(nn.Cell):
    def __init__(self, outputs=3):
        super().__init__()
        self.dense = nn.Dense(2, outputs)
        self.head = nn.CellDict({"conf": nn.Dense(outputs, 2)})


def resumable(fingerprint=FINGERPRINT, outputs=3, fill=0.0):
    """A network with everything beside it, all values `fill`, or at random where that is None."""
    model = Small(outputs)
    parameters = model.trainable_params()
    optimizer = SGD(parameters, [0.0] * len(parameters), [0.1] * 9)
    ema = Ema(parameters, 0.9)
    rng = np.random.default_rng(0)
    for p in [*parameters, *optimizer.moments, *ema.averages]:
        values = rng.normal(size=p.shape) if fill is None else np.full(p.shape, fill)
        p.set_data(Tensor(values.astype(np.float32)))
    return Resumable(model, optimizer, fingerprint, ema, [DynamicLossScale(8.0)])


def save(state, path):
    content = {STATE_PREFIX + name: value for name, value in state.state().items()}
    save_checkpoint({**state.model.parameters_dict(), **content}, path)
    return path


def everything(state):
    parameters = [*state.model.get_parameters(), *state.parameters().values()]
    return {p.name: p.asnumpy().copy() for p in parameters}


@pytest.fixture
def saved(tmp_path):
    state = resumable(fill=None)
    state.optimizer.global_step.set_data(Tensor([7], ms.int32))
    state.others[0].update(False)
    return state, save(state, tmp_path / "net-1_7.ckpt")


def test_everything_comes_back(saved):
    before, path = saved
    after = resumable()
    assert after.restore(path) == 7
    for name, value in everything(before).items():
        np.testing.assert_array_equal(everything(after)[name], value, err_msg=name)
    assert after.others[0].scale == 4.0


@pytest.mark.parametrize(
    ("name", "value"), [("classes", ["cat", "cow"]), ("world_size", 1), ("schedule", ["step", 0.1])]
)
def test_another_run_is_refused_unless_forced(saved, name, value):
    _, path = saved
    other = resumable({**FINGERPRINT, name: value})
    before = everything(other)
    with pytest.raises(OtherRun, match=f"{name} was ") as caught:
        other.restore(path)
    assert str(caught.value).count(" was ") == 1
    for key, old in before.items():
        np.testing.assert_array_equal(everything(other)[key], old)
    assert other.restore(path, force=True) == 7


def test_forced_onto_another_shape_the_rest_is_taken(saved):
    before, path = saved
    other = resumable(outputs=4, fill=1.0)
    with pytest.raises(CheckpointError, match=r"moments\.dense\.weight"):
        other.restore(path)
    other.restore(path, force=True)
    found = everything(other)
    assert (found["dense.weight"] == 1).all()
    assert (found["moments.dense.weight"] == 1).all()
    np.testing.assert_array_equal(found["head.conf.bias"], everything(before)["head.conf.bias"])


def test_the_newest_good_one_is_taken(saved, tmp_path):
    before, _ = saved
    before.optimizer.global_step.set_data(Tensor([9], ms.int32))
    damaged = save(before, tmp_path / "net-2_9.ckpt")
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 4
    damaged.write_bytes(raw)
    assert resumable().restore_newest(tmp_path, "net") == 7
    assert resumable().restore_newest(tmp_path / "none", "net") == 0
    with pytest.raises(OtherRun):
        resumable({**FINGERPRINT, "world_size": 4}).restore_newest(tmp_path, "net")


def test_weights_alone_cannot_be_resumed(tmp_path):
    path = tmp_path / "net.ckpt"
    save_checkpoint(Small().parameters_dict(), path)
    with pytest.raises(CheckpointError, match="cannot be resumed from"):
        resumable().restore(path)


def test_fingerprints():
    assert compare_fingerprints(None, FINGERPRINT) == []
    assert compare_fingerprints(FINGERPRINT, {**FINGERPRINT, "classes": ("cat", "dog")}) == []
    assert compare_fingerprints({}, {"world_size": 1}) == []  # saved before there was this setting
    other = {"model": {"planes": 32, "new": 1}}
    assert compare_fingerprints({"model": {"planes": 64}}, other) == ["model.planes was 64, is 32"]


def test_finetuning_takes_what_fits_and_lists_the_rest(saved):
    before, path = saved
    net = Small(4)
    own = {name: p.asnumpy().copy() for name, p in net.parameters_dict().items()}
    with pytest.raises(CheckpointError, match="nothing in it fits"):
        load_fitting(net, path)
    lines = load_fitting(net, path, replace_heads=False)
    assert len(lines) == 3  # of another shape: both of dense, the head's weight
    taken = net.parameters_dict()["head.conf.bias"].asnumpy()
    np.testing.assert_array_equal(taken, everything(before)["head.conf.bias"])
    np.testing.assert_array_equal(net.dense.weight.asnumpy(), own["dense.weight"])
    lines = load_fitting(Small(3), path)
    assert [line.split(":")[0] for line in lines] == ["head.conf.weight", "head.conf.bias"]


def test_the_runs_own_best_is_nothing_to_resume_and_a_finished_run_is_refused(tmp_path):
    weights = Small().parameters_dict()
    save_checkpoint(weights, tmp_path / "net-best.ckpt")
    assert resumable().restore_newest(tmp_path, "net") == 0
    with pytest.raises(OtherRun, match=r"net-best\.ckpt, of another model\.backbone"):
        resumable().restore_newest(tmp_path, "wide")
    save_checkpoint(weights, tmp_path / "net-final.ckpt")
    with pytest.raises(OtherRun, match=r"holds a finished run, net-final\.ckpt"):
        resumable().restore_newest(tmp_path, "net")
