# SPDX-License-Identifier: Apache-2.0
"""Makes the picture at the top of README.md: `python -m docs.make_pictures [CHECKPOINT_PATH]`.

The photographs of docs/photos, side by side, with what the network that comes along finds in them.
"""

import sys
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from src.detector import Detector, Results
from src.runtime.files import write_atomically

FOLDER = Path(__file__).resolve().parent
HEIGHT_PX = 300
SCORE = 0.5


def main() -> None:
    detector = Detector.load(sys.argv[1] if sys.argv[1:] else None, SCORE)
    paths = sorted((FOLDER / "photos").glob("*.jpg"))
    results = cast(Results, detector(paths))
    drawn = [result.plot() for result in results]
    resized = [
        cv2.resize(
            picture,
            (round(picture.shape[1] * HEIGHT_PX / picture.shape[0]), HEIGHT_PX),
            interpolation=cv2.INTER_AREA,
        )
        for picture in drawn
    ]
    code = cv2.imencode(".jpg", np.hstack(resized), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    write_atomically(FOLDER / "images" / "detections.jpg", code.tobytes())


if __name__ == "__main__":
    main()
