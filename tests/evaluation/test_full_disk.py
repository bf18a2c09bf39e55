# SPDX-License-Identifier: Apache-2.0
"""Where no file may grow beyond some bytes, as on a full disk, nothing half written is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.evaluation.partial_results import PartialResults

ROOT = Path(__file__).resolve().parents[2]
ROW = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
# Each writes a file of more than 200 bytes into `folder`; the script gives its name as the second.
WRITERS = {
    "detections.json": "files.write_json(folder / 'detections.json', [ROW] * 99)",
    "detections_x_y_results.zip": "write_submission(folder, random_rows(99), 'x', 'y')",
    "a.png": "files.write_atomically(folder / 'a.png', os.urandom(999))",
    "part.jsonl": "PartialResults(folder / 'part.jsonl', 'key').append([1], [[ROW] * 99])",
    "x.pth": "room('formats.pytorch_weights').write_pytorch({'a': [0.0] * 99}, folder / 'x.pth')",
    "x.onnx": "room('formats.export_network').put_in_place(DRAFT, folder / 'x.onnx', {})",
    "log.jsonl": "RunLog(folder).scores(1, 1, Scored({str(n): n for n in range(99)}))",
}
SCRIPT = """
import importlib, os, random, resource, sys
from pathlib import Path
from src.evaluation.partial_results import PartialResults
from src.evaluation.submission import write_submission
from src.runtime import files
from src.training.callback import Scored
from src.training.run_log import RunLog
from src.utils import run_main

folder, ROW, DRAFT = Path(sys.argv[1]), {row}, Path(files.__file__)

def room(name):
    return importlib.import_module("src." + name)

def random_rows(count):  # which no archive makes small
    return [{{**ROW, "score": random.random()}} for _ in range(count)]

resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
run_main(lambda: {call})
"""


def test_a_folder_is_locked_all_the_same(tmp_path):
    script = f"""
import os, resource
from pathlib import Path
from src.runtime.files import locked
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
with locked(Path({str(tmp_path)!r})):
    print(*os.listdir({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (".lock\n", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_is_named_and_the_one_before_is_untouched(name, tmp_path):
    script = SCRIPT.format(row=ROW, call=WRITERS[name])
    if not name.endswith(".jsonl"):  # these are added to
        (tmp_path / name).write_text("old")
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / name}: File too large\n")
    assert os.listdir(tmp_path) == [name]
    if name == "part.jsonl":
        assert PartialResults(tmp_path / name, "key").results == {}
    elif name != "log.jsonl":
        assert (tmp_path / name).read_text() == "old"


def test_training_does_not_wait_for_events_that_cannot_be_written(tmp_path):
    script = f"""
import resource
from pathlib import Path
from src.drawing.tensorboard import EventLog
from src.training.callback import Scored
from src.utils import run_main
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
log = EventLog(Path({str(tmp_path)!r}))
run_main(lambda: [log.scores(step, 1, Scored({{"AP": 0.5}})) for step in range(99)])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'events'}: File too large\n")
