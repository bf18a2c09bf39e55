# SPDX-License-Identifier: Apache-2.0
"""A flag that a program has not got: what is meant is named."""

import pytest

from src.programs import arguments


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--epochs", "3"], "--epochs 3: did you mean --set train.total_epochs=3?"),
        (["--batch-size=8"], "--batch-size=8: did you mean --set train.per_batch_size=8?"),
        (["--imgsz", "640"], "did you mean --set model.input_size=640?"),
        (["--lr", "0.1"], "did you mean --set train.lr=0.1?"),
        (["--sfam", "--force"], "did you mean --set model.sfam=...?"),
        (["--train-urls", "x"], "did you mean --train_url?"),
        (["--xyzzy", "x"], "unrecognized arguments: --xyzzy x\n"),
        (["epochs"], "unrecognized arguments: epochs\n"),
    ],
)
def test_training(words, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        arguments.train_arguments(["--dataset_path", "x", *words])
    assert ended.value.code == 2
    assert meant in capsys.readouterr().err


def test_other_programs_have_other_batches(capsys):
    for flag, meant in (("--threshold", "--score_threshold"), ("--batch_size", "--set test.batch")):
        with pytest.raises(SystemExit):
            arguments.eval_arguments(["--dataset_path", "x", flag, "4"])
        assert f"did you mean {meant}" in capsys.readouterr().err
