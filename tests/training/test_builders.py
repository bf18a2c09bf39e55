# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from src.config import get_config
from src.formats.checkpoint import Labels
from src.runtime.typed_config import ConfigError
from src.training import builders
from src.training.builders import (
    batch_warning,
    build_criterion,
    build_loss_scale,
    build_schedule,
    eval_interval,
    images_per_step,
    milestones,
    refuse_frozen,
)
from src.training.lr_scheduler import learning_rates


def config(*overrides):
    return get_config("m2det512_vgg16", [f"train.{text}" for text in overrides])


@pytest.mark.parametrize(
    ("overrides", "ranks", "warned"),
    [
        (["per_batch_size=32"], 1, False),
        (["per_batch_size=33"], 1, True),
        (["per_batch_size=7"], 8, False),  # scaled with the ranks, as in the model zoo
        (["per_batch_size=7", "scale_lr=false"], 8, True),
        (["per_batch_size=8", "accumulate=5"], 1, True),
        (["per_batch_size=33"], 8, True),
    ],
)
def test_a_warning_beyond_the_known_range(overrides, ranks, warned):
    assert (batch_warning(config(*overrides), ranks) is not None) == warned


def test_linear_scaling_with_the_ranks():
    one = build_schedule(config("per_batch_size=8", "total_epochs=100"), 80, 1)
    two = build_schedule(config("per_batch_size=4", "total_epochs=100"), 80, 2)
    assert len(one) == len(two) == 1000
    assert one[60:].tolist() == pytest.approx((two[60:] / 2).tolist())
    fixed = build_schedule(config("per_batch_size=4", "total_epochs=100", "scale_lr=false"), 80, 2)
    np.testing.assert_array_equal(fixed, one)


@pytest.mark.parametrize(
    ("overrides", "epochs"),
    [
        ([], 16),  # ten times in the 160 epochs of the paper
        (["eval_times=10", "total_steps=400"], 4),  # 40 epochs of 10 steps
        (["eval_times=10", "total_epochs=16"], 2),
        (["eval_times=10", "total_steps=30"], 1),  # no more than once an epoch
        (["eval_times=10", "eval_epochs=7"], 7),
    ],
)
def test_how_often_scores_are_taken(overrides, epochs):
    assert eval_interval(config("per_batch_size=4", *overrides), 80, 2) == epochs


def test_the_warm_up_of_a_short_run_on_much_data_ends_after_three_tenths():
    """0.4 epochs of COCO are 11,829 steps of four images; the preset has 2,000 steps."""
    rates = build_schedule(get_config("m2det_finetune"), 118_287, 1)
    assert len(rates) == 2000
    assert rates.argmax() == 600
    assert rates.max() == pytest.approx(get_config("m2det_finetune").train.lr)
    assert rates[300] == pytest.approx(rates.max() / 2, rel=0.01)
    few = build_schedule(get_config("m2det_finetune"), 292, 1)
    assert few.argmax() == 30  # 0.4 epochs of 73 steps


@pytest.mark.parametrize(("ranks", "expected"), [(1, ["scored"]), (2, ["shared", "scored"])])
def test_ranks_score_the_statistics_that_are_saved(monkeypatch, ranks, expected):
    done = []
    monkeypatch.setattr(builders, "running_statistics", lambda _: ["mean"])
    monkeypatch.setattr(builders, "share_values", lambda values, rank: done.append("shared"))
    monkeypatch.setattr(builders, "category_ids_for", lambda *_: (1,))
    monkeypatch.setattr(builders, "SplitScorer", lambda *_: lambda show: done.append("scored"))
    labels = Labels(("cat",), (1,))
    score = builders.build_scorer(config(), None, None, labels, 0, ranks, lambda: False)
    score(print)
    assert done == expected


def test_what_stays_random_is_not_frozen():
    for name, setting in (("m2det_photos", "stages=0"), ("m2det_tiny", "backbone=false")):
        wanted = [] if name == "m2det_photos" else ["train.freeze_backbone=true"]
        with pytest.raises(ConfigError, match=f"stay random.*--set train.freeze_{setting}"):
            refuse_frozen(get_config(name, wanted))
    refuse_frozen(get_config("m2det_tiny"))


def test_parts_count_as_one_step():
    assert images_per_step(config("per_batch_size=2", "accumulate=3"), 4) == 24
    assert (
        len(build_schedule(config("per_batch_size=2", "accumulate=4", "total_epochs=10"), 16, 1))
        == 20
    )


def test_length_in_steps_is_the_same_whatever_the_data_and_ranks():
    wanted = get_config("m2det_tiny", ["train.total_steps=30", "train.warmup=0"])
    short, long = build_schedule(wanted, 10, 1), build_schedule(wanted, 10_000, 2)
    assert len(short) == len(long) == 30
    # two ranks have twice the rate
    np.testing.assert_allclose(long, 2 * short)
    # half a cosine over all steps: half of the rate in the middle
    assert short[15] == pytest.approx(0.5e-3)


def test_milestones_are_where_the_schedule_turns():
    rates = learning_rates(1.0, 100, 10, 2, (5, 8), (0.1,))
    assert milestones(rates, 10) == [
        "epoch 0.00 step 1: lr 1.000e-06",
        "epoch 2.00 step 21: lr 1.000e+00",
        "epoch 5.00 step 51: lr 1.000e-01",
        "epoch 8.00 step 81: lr 1.000e-02",
        "epoch 9.90 step 100: lr 1.000e-02",
    ]
    cosine = milestones(learning_rates(1.0, 100, 10, 0, schedule="cosine", gamma=(1.0,)), 10)
    assert [line.split(":")[0] for line in cosine] == ["epoch 0.00 step 1", "epoch 9.90 step 100"]


def test_where_the_loss_scale_starts():
    assert build_loss_scale(config()) is None
    assert build_loss_scale(config("amp_level=O2")).scale == 65536
    fixed = get_config("m2det_tiny", ["train.amp_level=O3", "optimizer.loss_scale=1024"])
    assert build_loss_scale(fixed).scale == 1024


def test_the_loss_follows_its_section():
    keys = ("loss.box=giou", "loss.box_weight=3", "loss.quality=true")
    loss = build_criterion(get_config("m2det_tiny", [*keys, "train.empty_image_negatives=5"]), 1)
    assert (loss.giou, loss.box_weight, loss.quality, loss.empty_image_negatives) == (
        True,
        3,
        True,
        5,
    )
    usual = build_criterion(get_config("m2det_tiny"), 1)
    assert (usual.giou, usual.box_weight, usual.quality) == (False, 1, False)
