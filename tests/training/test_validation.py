# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.evaluation.coco_metrics import CocoScore
from src.formats.checkpoint import read_checkpoint
from src.inference.postprocess import NotFiniteError
from src.runtime import collectives
from src.runtime.collectives import gather, share_values
from src.training import validation
from src.training.callback import CheckpointSaver, Scored, StepReport
from src.training.ema import Ema
from src.training.validation import Evaluation, SplitScorer

pytestmark = pytest.mark.usefixtures("device")


def report(step, epoch, ended=True, total=99):
    return StepReport(step, total, epoch, ended, 1.0, 1.0, 1.0, 0.1, 4, 0.0)


class Scores:
    """Gives the next AP each time, and remembers the weight it saw."""

    def __init__(self, weight, values):
        self.weight, self.values, self.seen = weight, list(values), []

    def __call__(self, show):
        self.seen.append(float(self.weight.asnumpy()[0]))
        show("scoring")
        value = self.values.pop(0)
        return None if value is None else Scored({"AP": value, "AP50": 2 * value}, results=[value])


def make(tmp_path, values, patience=0, every=1, ema=False):
    weight = Parameter(Tensor(np.array([5.0], np.float32)), name="w")
    average = Ema([weight], 0.9) if ema else None
    if average:
        average.averages[0].set_data(Tensor(np.array([3.0], np.float32)))
    scores = Scores(weight, values)
    evaluation = Evaluation(scores, every, patience, lambda: {"w": weight}, average)
    saver = CheckpointSaver(tmp_path, "net", dict, dict, 1, 1)
    rows = []
    evaluation.watch(saver, [lambda step, epoch, scored: rows.append((step, epoch, scored))])
    return evaluation, scores, rows, saver


def best(saver):
    return float(read_checkpoint(saver.best_path)["w"].asnumpy()[0])


def test_every_second_epoch_and_the_last_step(tmp_path):
    evaluation, _, rows, _ = make(tmp_path, [0.1, 0.2, 0.3], every=2)
    for step in range(1, 6):
        evaluation.on_step(report(step, step, total=5))
    assert [step for step, _, _ in rows] == [2, 4, 5]
    evaluation.on_step(report(6, 6, ended=False))
    assert len(rows) == 3


def test_the_best_is_kept_and_patience_ends_the_run(tmp_path):
    evaluation, scores, _, saver = make(tmp_path, [0.2, 0.1, 0.3, 0.3, 0.25], patience=2)
    should_stop = []
    for step in range(1, 6):
        scores.weight.set_data(Tensor(np.array([10.0 * step], np.float32)))
        evaluation.on_step(report(step, step))
        should_stop.append(evaluation.should_stop)
    assert should_stop == [False, False, False, False, True]
    assert evaluation.best == 0.3
    assert best(saver) == 30  # the first of two equals


def test_the_average_is_scored_too_and_may_be_the_best(tmp_path):
    evaluation, scores, rows, saver = make(tmp_path, [0.2, 0.4, 0.6, 0.5], ema=True)
    evaluation.on_step(report(1, 1))
    assert scores.seen == [5.0, 3.0]
    both = {"AP": 0.2, "AP50": 0.4, "AP_ema": 0.4, "AP50_ema": 0.8}
    assert (rows[0][2].numbers, rows[0][2].results) == (both, [0.4])  # of the better
    assert best(saver) == 3
    evaluation.on_step(report(2, 2))
    assert best(saver) == 5


def test_given_up_scorings_change_nothing(tmp_path):
    evaluation, _, rows, saver = make(tmp_path, [None, 0.1, None], patience=1, ema=True)
    evaluation.on_step(report(1, 1))
    evaluation.on_step(report(2, 2))
    assert not rows
    assert not evaluation.should_stop
    assert not saver.best_path.exists()


def test_resuming(tmp_path):
    evaluation, *_ = make(tmp_path, [0.4, 0.1], patience=2)
    evaluation.on_step(report(1, 1))
    evaluation.on_step(report(2, 2))
    other, _, _, saver = make(tmp_path / "other", [0.3], patience=2)
    other.restore(evaluation.state())
    other.on_step(report(3, 3))
    assert other.should_stop
    assert not saver.best_path.exists()


@pytest.mark.parametrize("last", [False, True])
def test_a_scoring_that_a_signal_cut_short_is_made_up_for(tmp_path, last):
    total = 4 if last else 99
    evaluation, *_ = make(tmp_path, [0.1, None], every=2)
    evaluation.on_step(report(2, 2, total=total))
    evaluation.on_step(report(4, 4, total=total))
    resumed, _, rows, _ = make(tmp_path / "other", [0.3, 0.4], every=2)
    resumed.restore(evaluation.state())
    if last:
        resumed.on_end()
    for step in (5, 6) if not last else ():
        resumed.on_step(report(step, step))
    assert [row[:2] for row in rows] == ([(4, 4)] if last else [(5, 5), (6, 6)])
    assert resumed.state()["best"].tolist() == [0.3 if last else 0.4, 0, 0, 0]


def test_checkpoints_of_before_can_be_resumed(tmp_path):
    evaluation, _, rows, _ = make(tmp_path, [])
    evaluation.restore({"best": np.array([0.5, 2.0])})
    evaluation.on_end()
    assert (evaluation.best, evaluation.without_better, rows) == (0.5, 2, [])


class Model:
    training = True

    def set_train(self, mode):
        self.training = mode


def scorer(monkeypatch, outcome, stopping=lambda: False, rank=0, ranks=1):
    """A scorer whose detector does `outcome(indices)`; results are counted instead of scored."""
    model = Model()

    def detect_split(detector, data, indices, category_ids, on_batch, **sizes):
        assert not model.training
        outcome(list(indices))
        on_batch([1, 2], [[{"x": 1}], [{"x": 2}, {"x": 3}]])

    def coco_score(data, results):
        return CocoScore({"AP": len(results)}, (), np.zeros(0), np.zeros(0))

    monkeypatch.setattr(validation, "detect_split", detect_split)
    monkeypatch.setattr(validation, "coco_score", coco_score)
    data = type("Data", (), {"records": range(5)})
    return model, SplitScorer(model, object, data, (1,), 1, 1, rank, ranks, stopping)


def test_a_scorer_leaves_the_network_in_training(monkeypatch):
    seen, shown = [], []
    model, score = scorer(monkeypatch, seen.extend)
    assert score(shown.append).numbers == {"AP": 3}
    assert seen == [0, 1, 2, 3, 4]
    assert shown == ["scoring 2/5"]
    assert model.training


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_scores_for_all(monkeypatch, rank):
    """Each detects on its share; only the first counts what both found, and all get its number."""
    seen, gathered = [], []
    _, score = scorer(monkeypatch, seen.extend, rank=rank, ranks=2)

    def gather(value, rank, world_size):
        gathered.append(value)
        if "results" in value:
            return [value, {"complete": True, "results": [{"x": 9}]}]
        return [{"AP": 0.5}, {}]

    monkeypatch.setattr(validation, "gather", gather)
    found = score()
    assert seen == [[0, 2, 4], [1, 3]][rank]
    assert found.numbers == {"AP": 0.5}
    assert gathered[1] == ({} if rank else {"AP": 4})
    assert (found.score is None) == bool(rank)


def test_outputs_that_are_not_finite_are_no_score(monkeypatch, caplog):
    def fail(indices):
        raise NotFiniteError("loc holds NaN")

    model, score = scorer(monkeypatch, fail)
    assert score() is None
    assert "loc holds NaN" in caplog.text
    assert model.training


def test_unreadable_images_are_reported_at_the_first_scoring_alone(monkeypatch):
    readers = []
    _, score = scorer(monkeypatch, lambda _: None)
    real = validation.detect_split
    monkeypatch.setattr(
        validation, "detect_split", lambda *a, **k: readers.append(k["reader"]) or real(*a, **k)
    )
    score()
    score()
    assert readers[0] is readers[1]


def test_a_scorer_gives_up_when_the_run_is_to_stop(monkeypatch):
    seen = []
    _, score = scorer(monkeypatch, seen.extend, stopping=lambda: True)
    assert score() is None
    assert not seen


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_values_of_all_ranks_by_sums(monkeypatch, rank):
    """The other ranks' summands are made by hand: their lengths, then their text in its place."""
    values = [{"a": [1.5, "é"]}, [], {"b": None}]
    texts = ['{"a": [1.5, "\\u00e9"]}', "[]", '{"b": null}']
    steps = [
        np.zeros(3),
        np.array([len(t) for t in texts]),
        np.frombuffer("".join(texts).encode(), "u1"),
    ]
    sums = iter(steps)

    class Sum:
        def __init__(self, op):
            pass

        def __call__(self, own):
            total, own = next(sums), own.asnumpy()
            assert set(np.flatnonzero(own)) <= set(np.flatnonzero(total))
            assert (own[own != 0] == total[own != 0]).all()
            return Tensor(total.astype(np.float32))

    monkeypatch.setattr(collectives.ops, "AllReduce", Sum)
    assert gather(values[rank], rank, 3) == values


def test_a_value_of_more_bytes_than_float32_counts(monkeypatch):
    text = "x" * (2**24 + 1)
    sent = []

    class Sum:
        def __init__(self, op):
            pass

        def __call__(self, own):
            """Adds what the other rank sends, the JSON value 1: one byte, at the end."""
            sent.append(own.asnumpy())
            other = np.zeros(own.shape, np.float32)
            other[-1] = {1: 0, 2: 1, 3: ord("1")}[len(sent)]
            return Tensor(sent[-1] + other)

    monkeypatch.setattr(collectives.ops, "AllReduce", Sum)
    assert gather(text, 0, 2) == [text, 1]


@pytest.mark.parametrize("rank", [0, 1])
def test_statistics_of_the_first_rank_are_shared_by_one_sum(monkeypatch, rank):
    first = [np.float32([1, 2, 3]), np.float32([[4, 5]])]
    own = [Parameter(Tensor(value if rank == 0 else 9 * value)) for value in first]
    flat = np.float32([1, 2, 3, 4, 5])
    sums = []

    class Sum:
        def __init__(self, op):
            pass

        def __call__(self, summand):
            sums.append(summand.asnumpy().tolist())
            return Tensor(flat)

    monkeypatch.setattr(collectives.ops, "AllReduce", Sum)
    share_values(own, rank)
    assert sums == [flat.tolist() if rank == 0 else [0.0] * 5]
    for parameter, value in zip(own, first):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
