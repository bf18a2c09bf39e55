# SPDX-License-Identifier: Apache-2.0
import json
import zipfile

import pytest

from src.evaluation.submission import write_submission

ROWS = [{"image_id": 7, "category_id": 1, "bbox": [0.5, 1, 2, 3], "score": 0.25}]


@pytest.mark.parametrize(
    ("split", "name", "stem"),
    [
        ("test-dev2015", "m2det512", "detections_test-dev2015_m2det512_results"),
        ("test-dev2017", "my_net v2/é", "detections_test-dev2017_my-net-v2_results"),
        ("test2017", "___", "detections_test2017_m2det_results"),
    ],
)
def test_names_follow_the_servers_rule(tmp_path, split, name, stem):
    path = write_submission(tmp_path, ROWS, split, name)
    assert path.name == f"{stem}.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{stem}.json"]
        assert json.loads(archive.read(f"{stem}.json")) == ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nothing_found_is_an_empty_list(tmp_path):
    with zipfile.ZipFile(write_submission(tmp_path, [], "test-dev2015", "x")) as archive:
        assert json.loads(archive.read(archive.namelist()[0])) == []
