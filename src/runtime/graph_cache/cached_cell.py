# SPDX-License-Identifier: Apache-2.0
"""Compiled graphs kept between runs, each under a key of everything that can have gone into it.

MindSpore's own cache knows a graph by its number in the order of compiling, and checks nothing but
source files: with a changed learning rate, or other input sizes first, it gives the wrong graph. So
it gets an empty folder of this process and is on for one graph at a time: the file of that graph
is put there before, or fetched from there after.

The state of a process lies in that folder, whose name MindSpore keeps in its context.
"""

import atexit
import contextlib
import json
import logging
import os
import platform
import re
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Set, Tuple

import mindspore as ms
from mindspore import nn

from ..files import LOCK_NAME, scratch_folder
from .graph_digest import Unknown, graph_digest
from .store import (
    CacheError,
    Store,
    cache_folder,
    digest_of_files,
    digest_of_json,
)

LOG = logging.getLogger("m2det.cache")
DRAFTS = "m2det-run-"  # begins the names of the processes' own folders
_STATE = "state.json"
_SWITCH = "MS_COMPILER_CACHE_ENABLE"
_LOCK = threading.Lock()  # one graph at a time
_NUMBER = re.compile(r"_\d+(?=\.[^/]*$)")  # in the name of a graph's file
# Of MindSpore's variables, those that say where a rank is. The others may change what is compiled.
_PLACES = ("MS_SCHED_", "MS_NODE_", "MS_ROLE", "MS_WORKER_NUM", "MS_SERVER_NUM", "MS_TOPO_")


@dataclass
class _State:
    """State of a process with a cache."""

    store: str  # folder of all processes
    fingerprint: str  # digest of what all graphs of this process depend on
    compiled: int = 0  # graphs so far, by which MindSpore numbers their files


def open_cache(target: str, rank: int = 0, world_size: int = 1) -> None:
    """Switches the cache on for this process; on a GPU or Ascend only where it is asked for.

    Where it cannot be used there is a warning, and everything is compiled. Someone who has switched
    on MindSpore's own cache keeps that.
    """
    if _SWITCH in os.environ or ms.get_context("compile_cache_path"):
        return
    # With its cache on, MindSpore reads the script that was started: `python -c` has none.
    script = getattr(ms.common.api, "entry_script_path", None)
    if script is not None and not os.path.isfile(script):
        return
    folder = cache_folder(os.environ, default=target == "CPU")
    if folder is None:
        return
    try:
        Store(folder)
        fingerprint = digest_of_json(process_fingerprint(target, rank, world_size))
        at_exit = contextlib.ExitStack()
        work = at_exit.enter_context(scratch_folder(folder, DRAFTS))
        atexit.register(at_exit.close)
        _write(work, _State(str(folder), fingerprint))
    except OSError as error:
        LOG.warning("compiled graphs are not kept: %s", error)
        return
    ms.set_context(compile_cache_path=str(work))


def process_fingerprint(target: str, rank: int, world_size: int) -> Dict[str, Any]:
    """What every graph of a process depends on: releases, sources, device, ranks, settings."""
    sources = Path(__file__).resolve().parents[2]
    script = Path(str(getattr(sys.modules["__main__"], "__file__", None) or ""))
    files = [*sources.rglob("*.py"), *([script] if script.is_file() else [])]
    settings = {name: value for name, value in os.environ.items() if name.startswith("MS_")}
    return {
        "mindspore": ms.__version__,
        "python": [*sys.version_info[:3], platform.machine()],
        "sources": digest_of_files(files),
        "device": [target, rank, world_size],
        "settings": {n: value for n, value in settings.items() if not n.startswith(_PLACES)},
    }


class Cached:
    """Wraps a cell: its graph for each new shape of inputs may be loaded from disk."""

    def __init__(self, cell: nn.Cell) -> None:
        self.cell = cell
        self._seen: Set[Tuple[Any, ...]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name)

    def __call__(self, *inputs: ms.Tensor) -> Any:
        """The cell's outputs."""
        form = (self.cell.training, *((x.shape, x.dtype) for x in inputs))
        if form in self._seen:
            return self.cell(*inputs)
        self._seen.add(form)
        with _cached_graph(self.cell, inputs):
            return self.cell(*inputs)


@contextlib.contextmanager
def _cached_graph(cell: nn.Cell, inputs: Sequence[ms.Tensor]) -> Iterator[None]:
    """While it lasts, the one graph that is compiled is that of `cell` for such `inputs`."""
    work = Path(ms.get_context("compile_cache_path") or "/")
    if not (work / _STATE).is_file():
        yield
        return
    with _LOCK:
        try:
            state = _State(**json.loads((work / _STATE).read_text(encoding="utf-8")))
            key = digest_of_json([state.fingerprint, graph_digest(cell, inputs)])
            store = Store(Path(state.store))
            put = _lay_out(work, store.get(key), state.compiled)
            _write(work, _State(state.store, state.fingerprint, state.compiled + 1))
        except (Unknown, OSError) as error:
            LOG.warning("a compiled graph is not kept: %s", error)
            yield
            return
        os.environ[_SWITCH] = "1"
        try:
            yield
            _collect(work, store, key, state.compiled, put)
        finally:
            del os.environ[_SWITCH]
            for path in _graphs(work):
                path.unlink()


def _lay_out(work: Path, files: Optional[Dict[str, bytes]], number: int) -> Dict[Path, int]:
    """Puts a graph where MindSpore looks for graph `number`; time of change of each file."""
    put = {}
    for name, content in (files or {}).items():
        path = work / _NUMBER.sub(f"_{number}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        put[path] = path.stat().st_mtime_ns
    return put


def _collect(work: Path, store: Store, key: str, number: int, put: Dict[Path, int]) -> None:
    """Stores the graph, unless it came from the cache or MindSpore has written something else."""
    graphs = _graphs(work)
    if graphs and all(put.get(path) == path.stat().st_mtime_ns for path in graphs):
        LOG.info("the compiled graph was kept")
        return
    if not graphs or any(not path.match(f"*_{number}.*") for path in graphs):
        LOG.warning("a compiled graph is not kept: MindSpore wrote %d files", len(graphs))
        return
    own = (_STATE, LOCK_NAME)
    files = [path for path in work.rglob("*") if path.is_file() and path.name not in own]
    try:
        store.put(key, {str(path.relative_to(work)): path.read_bytes() for path in files})
    except CacheError as error:
        LOG.warning("a compiled graph is not kept: %s", error)
        return
    LOG.info("the compiled graph is kept for later runs")


def _graphs(work: Path) -> Sequence[Path]:
    return [path for path in work.rglob("*") if path.is_file() and _NUMBER.search(path.name)]


def _write(work: Path, state: _State) -> None:
    (work / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
