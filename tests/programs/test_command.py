# SPDX-License-Identifier: Apache-2.0
"""The command `m2det`: subcommands, and that --help imports no framework."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.config import PRESETS, Config, get_config
from src.programs import command
from src.runtime.errors import UsageError
from src.runtime.typed_config import keys_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {name: f"{'check_data' if name == 'check' else name}.py" for name in command.COMMANDS}
HELP = """
import sys
from src.programs import command
try:
    command.main(sys.argv[1:])
finally:
    print(sorted({"mindspore", "torch", "pandas"} & set(sys.modules)))
"""


def called(*words):
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("name", ["", *command.COMMANDS])
def test_help_imports_no_framework(name):
    """MindSpore takes two seconds to import; the rest together half of one."""
    result = called("-c", HELP, *name.split(), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: m2det {name or 'COMMAND'} ")
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["train", "--dataset_path", ""], "--dataset_path"),
        (["train", "--dataset_path", "x", "--finetune", "", "--dry_run"], "--finetune"),
        (["train", "--dataset_path", "x", "--finetune="], "--finetune"),
        (["demo", "--input", "x", "--set", "test.flip=true", "--output="], "--output"),
        (["check", ""], "an argument"),
    ],
)
def test_an_empty_value_is_refused(words, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith(f" error: {flag} is empty, perhaps of a variable that is not set\n")


@pytest.mark.parametrize("flags", [["--list"], ["--show_config", "--config", "m2det_tiny"]])
def test_showing_the_configuration_needs_neither_data_nor_framework(flags):
    result = called("-c", HELP, "train", *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_lists_presets_and_parameters(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--list"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {preset}: " in listed for preset in PRESETS)
    assert all(f"\n  {key} = " in listed for key in keys_of(Config))
    assert "train.lr = 0.00075\n      learning rate;" in listed
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_shows_a_configuration_that_it_takes_back(name, tmp_path, capsys):
    overrides = ["train.lr=1e-7", "data.multi_scale=96,128"]
    flags = [word for text in overrides for word in ("--set", text)]
    assert command.run(name, ["--show_config", "--config", "m2det_photos", *flags]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert get_config(str(tmp_path / "mine.yaml")) == get_config("m2det_photos", overrides)


def test_the_configuration_shown_is_that_of_the_checkpoint_or_the_device(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"preset": "m2det_tiny", "train": {"lr": 3}}')
    (tmp_path / "x.ckpt").touch()
    command.run("eval", ["--show_config", "--checkpoint_path", str(tmp_path / "x.ckpt")])
    assert "\n  lr: 3.0  # learning rate" in capsys.readouterr().out
    command.run("train", ["--show_config", "--device_target", "CPU"])
    assert 'experiment_tag: "m2det_small"' in capsys.readouterr().out
    with pytest.raises(UsageError, match="--config"):
        command.run("convert", ["--show_config"])


def test_numpy_starts_no_threads_before_a_training_holds_its_signals():
    """Such threads would take the signals in its place."""
    result = called("-c", "import sys, train; print('numpy' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in command.COMMANDS)


@pytest.mark.parametrize("words", [[], ["trian"], ["train", "--no_such_flag"], ["train", "x"]])
def test_wrong_words_end_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert "usage: m2det" in capsys.readouterr().err


def test_an_error_is_one_line(tmp_path, capsys, device):
    with pytest.raises(SystemExit) as ended:
        command.main(["eval", "--checkpoint_path", "no.ckpt", "--dataset_path", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_exit_code_of_a_check(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["check", str(tmp_path)])
    assert ended.value.code in (1, 2)
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "program"), PROGRAMS.items())
def test_the_zoo_programs_lead_there(name, program):
    text = (ROOT / program).read_text()
    assert f'main = partial(run, "{name}")' in text
    assert len(text.splitlines()) < 20


def test_a_zoo_program_shows_its_own_name():
    result = called("export.py", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: export.py ")


def test_no_thread_that_starts_with_an_import_takes_the_signals_of_a_training(monkeypatch):
    blocked = []

    def mask():
        return signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def import_module(*_):
        blocked.append(mask())
        return SimpleNamespace(main=lambda _: blocked.append(mask()))

    monkeypatch.setattr(command, "import_module", import_module)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has ignored
    try:
        command.run("train", ["--dataset_path", "data"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= blocked[0] - blocked[1]
