# SPDX-License-Identifier: Apache-2.0
"""Scoring while training: every few epochs, with and without the average of weights."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from ..config import TrainConfig
from ..data.coco_utils import load_data
from ..data.records import DataError, DetectionData
from ..data.sample_stream import Reader
from ..evaluation.coco_metrics import category_ids_for, coco_score
from ..evaluation.pipeline import detect_split, rank_indices
from ..inference.detector import ArrayDetector
from ..runtime.collectives import gather
from ..runtime.errors import M2DetError
from .callback import Callback, CheckpointSaver, Scored, StepReport
from .ema import Ema

LOG = logging.getLogger("m2det.train")
Show = Callable[[str], None]
Score = Callable[[Show], Optional[Scored]]
Record = Callable[[int, int, Scored], None]
NOTHING = (0, 0)  # step and epoch of no scoring


class SplitScorer:
    """Callable that scores the network on a split; ranks take turns with the images.

    Args:
        model: the network, in training mode afterwards.
        make_detector: builds a detector around it.
        data: the split.
        category_ids: the data set's id of each class.
        batch_size: images the network sees at once.
        num_workers: threads that read images.
        rank, world_size: of this process.
        stopping: whether the run is to end; scoring is then given up.
    """

    def __init__(
        self,
        model: Any,
        make_detector: Callable[[], ArrayDetector],
        data: DetectionData,
        category_ids: Sequence[int],
        batch_size: int = 1,
        num_workers: int = 1,
        rank: int = 0,
        world_size: int = 1,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._model, self._make_detector = model, make_detector
        self._detector: Optional[ArrayDetector] = None
        self._reader = Reader(data)
        self._data, self._category_ids = data, category_ids
        self._batch_size, self._num_workers = batch_size, num_workers
        self._rank, self._world_size = rank, world_size
        self._stopping = stopping

    def __call__(self, show: Show = lambda _: None) -> Optional[Scored]:
        """The 12 COCO numbers, the same on all ranks; None where it was given up.

        `show` is called with the progress.
        """
        results: List[Mapping[str, Any]] = []
        complete = True
        self._model.set_train(False)
        try:
            if self._detector is None:
                self._detector = self._make_detector()
            self._model.set_train(False)
            complete = self._detect(results, show)
        except M2DetError as error:  # e.g. outputs that are not finite
            LOG.warning("not scored: %s", error)
            complete = False
        finally:
            self._model.set_train(True)
        parts = gather({"complete": complete, "results": results}, self._rank, self._world_size)
        if not all(part["complete"] for part in parts):
            return None
        numbers, score = {}, None
        every = [entry for part in parts for entry in part["results"]]
        if self._rank == 0:  # pycocotools takes a minute for COCO: one rank is enough
            score = coco_score(self._data, every)
            numbers = score.totals
        numbers = gather(numbers, self._rank, self._world_size)[0]
        return Scored(numbers, score, every)

    def _detect(self, results: List[Mapping[str, Any]], show: Show) -> bool:
        done, total = 0, len(self._data.records)

        def on_batch(image_ids: List[int], entries: List[List[Mapping[str, Any]]]) -> None:
            nonlocal done
            for found in entries:
                results.extend(found)
            done += len(image_ids) * self._world_size
            show(f"scoring {min(done, total)}/{total}")

        assert self._detector is not None
        detect_split(
            self._detector,
            self._data,
            self._own(),
            self._category_ids,
            on_batch,
            batch_size=self._batch_size,
            num_workers=self._num_workers,
            reader=self._reader,
        )
        return not self._stopping()

    def _own(self) -> Iterator[int]:
        """The images of this rank, each of all images once; none any more when stopping."""
        for index in rank_indices(len(self._data.records), self._rank, self._world_size):
            if self._stopping():
                return
            yield index


class Evaluation(Callback):
    """Scores every so many epochs, keeps the best network, and ends a run that gets no better.

    Args:
        score: scores the network with its present weights.
        every_epochs: how often; the last step is scored as well.
        patience: scorings without a better AP that end the run; 0: never.
        weights: gives the weights by name.
        ema: scored too where given. The better of the two counts.
    """

    def __init__(
        self,
        score: Score,
        every_epochs: int,
        patience: int,
        weights: Callable[[], Mapping[str, Any]],
        ema: Optional[Ema] = None,
    ) -> None:
        self._score, self._every, self._patience = score, every_epochs, patience
        self._weights, self._ema = weights, ema
        self._saver: Optional[CheckpointSaver] = None
        self._records: Sequence[Record] = ()
        self._show: Show = lambda _: None
        self._given_up = NOTHING  # the scoring that the end of the run cut short
        self._due = NOTHING  # that of an earlier part of the run, to be made up for
        self.best = -1.0
        self.without_better = 0

    def watch(
        self, saver: CheckpointSaver, records: Sequence[Record], show: Show = lambda _: None
    ) -> None:
        """On the first rank: `saver` saves the best, `records` are called with step, epoch
        and scores, `show` with the progress of a scoring.
        """
        self._saver, self._records, self._show = saver, records, show

    def state(self) -> Dict[str, np.ndarray]:
        """What resuming needs, by name."""
        return {"best": np.array([self.best, self.without_better, *self._given_up], np.float64)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore what `state` gave."""
        best, count, *due = state["best"].tolist()
        self.best, self.without_better = best, int(count)
        self._due = (int(due[0]), int(due[1])) if due else NOTHING

    @property
    def should_stop(self) -> bool:
        """Whether the run should end: too many scorings without a better AP."""
        return 0 < self._patience <= self.without_better

    def on_step(self, report: StepReport) -> None:
        last = report.step == report.total_steps
        if (report.epoch_ended and report.epoch % self._every == 0) or last or any(self._due):
            self._evaluate(report.step, report.epoch)

    def on_end(self) -> None:
        if any(self._due):  # it was that of the last step
            self._evaluate(*self._due)

    def forget_best(self) -> None:
        """Count scores anew, where the best network so far is not in this run's folder."""
        self.best, self.without_better = -1.0, 0

    def _evaluate(self, step: int, epoch: int) -> None:
        self._due, self._given_up = NOTHING, (step, epoch)
        scored = self._score(self._show)
        if scored is None:
            return
        found, weights = scored.numbers["AP"], self._weights
        if self._ema is not None:
            with self._ema.in_place():
                averaged = self._score(self._show)
            if averaged is None:
                return
            both = {**scored.numbers, **{f"{k}_ema": v for k, v in averaged.numbers.items()}}
            if averaged.numbers["AP"] > found:
                found, weights, scored = averaged.numbers["AP"], self._ema.weights, averaged
            scored = replace(scored, numbers=both)
        self._given_up = NOTHING
        LOG.info("epoch %d %s", epoch, _words(scored.numbers))
        for record in self._records:
            record(step, epoch, scored)
        self.without_better += 1
        if found > self.best:
            self.best, self.without_better = found, 0
            if self._saver is not None:
                self._saver.save_best(weights())
        if self.should_stop:
            LOG.info("no better AP than %.4f in %d scorings", self.best, self.without_better)


def load_validation_data(
    path: Path, data: DetectionData, config: TrainConfig, allow_links: bool
) -> Optional[DetectionData]:
    """The split `eval_split` of the data set at `path`, to score training on `data`.

    None where it is missing, has no annotations or shares images with `data`, unless `eval_epochs`
    asks for it.

    Raises:
        DataError: it is missing or unusable, and `eval_epochs` is set.
    """
    try:
        found = load_data(path, config.eval_split, allow_links=allow_links)
        category_ids_for(data.class_names, found)  # has it all classes?
        if not found.annotated:
            raise DataError(f"{found.annotation_path}: {found.split} has no annotations")
    except DataError as error:
        if config.eval_epochs:
            raise
        LOG.info("not scored during training: %s", error)
        return None
    shared = {r.path for r in data.records} & {r.path for r in found.records}
    if shared and not config.eval_epochs:
        text = "not scored during training: %d of the %d images of %s are trained on"
        LOG.info(text, len(shared), len(found.records), found.split)
        return None
    return found


def _words(numbers: Mapping[str, float]) -> str:
    shown = [name for name in ("AP", "AP50", "AP_ema", "AP50_ema") if name in numbers]
    return " ".join(f"{name} {numbers[name]:.4f}" for name in shown)
