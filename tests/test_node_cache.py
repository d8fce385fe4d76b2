from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import node_cache, shards
from pipeline.errors import InputError, TrainingError
from pipeline.grid import PixelGrid
from pipeline.node_cache import NodeCache, node_folder, node_memory, shard_bytes
from pipeline.records import Runs, Tile, encode_tile, record_bound
from pipeline.shards import DATA, LAYOUT, MANIFEST, Manifest, ShardReader, ShardWriter, SplitCounts

SIDE = 8
ROOT = Path(__file__).resolve().parents[1]

Shard = Callable[..., Path]


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """Writes a shard of four tiles of one value."""

    def write(sheet: str, value: int = 1) -> Path:
        folder = tmp_path / "shards" / f"{sheet}.lmdb"
        folder.parent.mkdir(exist_ok=True)
        image = np.full((3, SIDE, SIDE), value, np.uint8)
        label = np.zeros((SIDE, SIDE), np.uint8)
        index = np.zeros((SIDE, SIDE), np.uint32)
        tile = Tile(image, label, index, np.zeros(0, np.uint32), np.zeros((0, 1), np.float32))
        counts = SplitCounts.nothing(3, 1)
        with ShardWriter(folder, 4, record_bound(SIDE, 3, 1)) as writer:
            for position in range(4):
                writer.put(position, encode_tile(tile))
                counts += SplitCounts.of(image, Runs.of(label), None, 1)
            grid = PixelGrid("EPSG:25830", 7e5, 4.4e6, 0.5, 0.5, 100, 100)
            splits, total = {"train": (0, 4)}, {"train": counts}
            manifest = (LAYOUT, sheet, grid, 3, SIDE, ("water",), "abc", "raw", splits, total)
            writer.finish(Manifest(*manifest, writer.checksum))
        return folder

    return write


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def filled(folder: Path, *sources: Path) -> NodeCache:
    """A cache that has copied what it can."""
    cache = NodeCache(str(folder))
    for source in sources:
        cache.reader(source)
    cache._fill()
    return cache


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".tesela.lock")


def test_variables_of_the_environment_are_put_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert node_folder("$NODE_DISK/a") == tmp_path / "a"
    assert node_folder("${NODE_DISK}_b") == Path(f"{tmp_path}_b")
    assert node_folder("~/c") == Path.home() / "c"
    with pytest.raises(TrainingError, match=r"training\.cache_dir: '\$NOT_THERE/\$\{EMPTY\}/") as e:
        node_folder("$NOT_THERE/${EMPTY}/$NODE_DISK/$NOT_THERE")
    assert e.value.items == ("$NOT_THERE", "$EMPTY")
    assert "cache_dir: null" in e.value.remedy


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"training\.cache_dir: .*file/below cannot be written"):
        NodeCache(str(tmp_path / "file" / "below"))


def test_without_a_folder_shards_are_read_where_they_lie(shard: Shard) -> None:
    cache = NodeCache(None)
    reader = cache.reader(shard("a"))
    with cache.filling():
        assert int(reader.read(3).image[0, 0, 0]) == 1
    assert reader.folder == shard_folder(reader)


def shard_folder(reader: ShardReader) -> Path:
    return reader.folder.parent / f"{reader.manifest.sheet}.lmdb"


def test_copies_are_whole_and_read_as_soon_as_they_are_there(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shards, "_LOOK_EVERY", 0.0)
    sources = [shard("a", 1), shard("b", 2)]
    cache = NodeCache(str(tmp_path / "disk"))
    readers = [cache.reader(source) for source in sources]
    places = [cache.place_of(reader.manifest) for reader in readers]
    assert [int(reader.read(0).image[0, 0, 0]) for reader in readers] == [1, 2]
    assert [reader.folder for reader in readers] == sources
    with caplog.at_level(logging.INFO), cache.filling():
        wait_for(lambda: all(place.exists() for place in places))
        wait_for(lambda: "are copied to" in caplog.text)
    for source, place in zip(sources, places, strict=True):
        assert names(place) == [DATA, MANIFEST]
        assert (place / DATA).read_bytes() == (source / DATA).read_bytes()
        assert (place / MANIFEST).read_bytes() == (source / MANIFEST).read_bytes()
    assert [int(reader.read(1).image[0, 0, 0]) for reader in readers] == [1, 2]
    assert [reader.folder for reader in readers] == places


def test_a_second_start_finds_the_copies(shard: Shard, tmp_path: Path) -> None:
    source = shard("a")
    first = filled(tmp_path / "disk", source)
    place = first.place_of(ShardReader(source).manifest)
    made = (place / DATA).stat()
    filled(tmp_path / "disk", source)
    again = (place / DATA).stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_a_shard_that_was_made_anew_is_another_one(shard: Shard, tmp_path: Path) -> None:
    filled(tmp_path / "disk", shard("a", 1))
    os.rename(tmp_path / "shards" / "a.lmdb", tmp_path / "shards" / "old")  # noqa: PTH104
    cache = NodeCache(str(tmp_path / "disk"))
    reader = cache.reader(shard("a", 7))
    assert int(reader.read(0).image[0, 0, 0]) == 7
    cache._fill()
    assert len(names(tmp_path / "disk")) == 2
    copy = ShardReader(cache.place_of(reader.manifest))
    assert int(copy.read(0).image[0, 0, 0]) == 7


def test_a_shard_that_changes_under_training_is_not_copied(
    shard: Shard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = NodeCache(str(tmp_path / "disk"))
    cache.reader(shard("a", 1))
    os.rename(tmp_path / "shards" / "a.lmdb", tmp_path / "shards" / "old")  # noqa: PTH104
    shard("a", 7)
    cache._fill()
    assert names(tmp_path / "disk") == []
    assert "sheet a is read where it lies:" in caplog.text
    assert "was made anew since training began" in caplog.text


def test_what_does_not_fit_stays_where_it_is(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small, large, other = shard("a"), shard("b"), shard("c")
    for path in (large, other):
        with (path / DATA).open("r+b") as file:
            file.truncate(3 * 2**28)  # sparse: 0.75 GiB
    monkeypatch.setattr(node_cache, "free_bytes", lambda folder: 2**30 + 2**29)
    cache = filled(tmp_path / "disk", small, large, other)
    assert names(tmp_path / "disk") == [cache.place_of(ShardReader(small).manifest).name]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "2 of 3 shards (b, c) stay where they are: their copies need 1.50 GiB, and "
        f"{tmp_path / 'disk'} has 1.50 GiB free, 1 of which are left alone"
    ]


def test_a_disk_that_fills_up_under_way_leaves_no_half_copy(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: NodeCache, source: object, target: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NodeCache, "_pour", full)
    filled(tmp_path / "disk", shard("a"))
    assert names(tmp_path / "disk") == []
    assert "sheet a is read where it lies:" in caplog.text
    assert "cannot be written (No space left on device)" in caplog.text


def test_a_copy_that_lost_a_part_is_made_again(shard: Shard, tmp_path: Path) -> None:
    source = shard("a")
    place = filled(tmp_path / "disk", source).place_of(ShardReader(source).manifest)
    for lost in ("some bytes", DATA, MANIFEST):
        if lost == "some bytes":
            os.truncate(place / DATA, 5000)
        else:
            (place / lost).unlink()
        reader = NodeCache(str(tmp_path / "disk")).reader(source)
        assert not place.exists()
        assert int(reader.read(0).image[0, 0, 0]) == 1
        filled(tmp_path / "disk", source)
        assert shard_bytes(place) == shard_bytes(source)


def test_the_end_of_training_ends_copying(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "_PIECE", 512)
    cache = NodeCache(str(tmp_path / "disk"))
    poured = NodeCache._pour
    started: list[bool] = []

    def slow(self: NodeCache, source: object, target: object) -> int:
        started.append(True)
        assert self._stop.wait(20)
        return poured(self, source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(NodeCache, "_pour", slow)
    cache.reader(shard("a"))
    with cache.filling():
        wait_for(lambda: bool(started))
        assert [name for name in names(tmp_path / "disk") if ".draft-" in name]
    assert names(tmp_path / "disk") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.node_cache import NodeCache
def pour(self, source, target):
    target.write(b"half"); target.flush()
    os.kill(os.getpid(), signal.SIGKILL)
NodeCache._pour = pour
cache = NodeCache(sys.argv[1])
cache.reader(Path(sys.argv[2]))
cache._fill()
"""

HOLDING = """
import fcntl, sys
lock = open(sys.argv[1], "r+b")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_kill_leaves_drafts_that_the_next_start_removes(shard: Shard, tmp_path: Path) -> None:
    # Of another shard than the next start's: nobody publishes that one again.
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "disk"), str(shard("a"))],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (draft,) = names(tmp_path / "disk")
    assert draft.startswith(".a-")
    source = shard("b")
    cache = filled(tmp_path / "disk", source)
    assert names(tmp_path / "disk") == [cache.place_of(ShardReader(source).manifest).name]


def test_one_process_copies_at_a_time(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "SECONDS_BETWEEN_LOOKS", 0.05)
    source = shard("a")
    cache = NodeCache(str(tmp_path / "disk"))
    place = cache.place_of(cache.reader(source).manifest)
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "disk" / ".tesela.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with cache.filling():
            time.sleep(0.3)
            assert not place.exists()
        with cache.filling():
            time.sleep(0.1)
            assert not place.exists()
            other.kill()  # its turn ends with it
            wait_for(place.exists)
    # And this process has given its turn back.
    with (tmp_path / "disk" / ".tesela.lock").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_shard_without_its_store_is_an_error(shard: Shard, tmp_path: Path) -> None:
    source = shard("a")
    filled(tmp_path / "disk", source)
    (source / DATA).unlink()
    with pytest.raises(InputError, match=r"a\.lmdb: data\.mdb cannot be read \(No such file"):
        NodeCache(str(tmp_path / "disk")).reader(source)


def test_the_memory_of_a_job_is_the_least_that_its_groups_allow(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own, groups = tmp_path / "cgroup", tmp_path / "fs"
    assert node_memory(groups, own) == physical  # no groups here
    (groups / "slurm" / "job" / "step").mkdir(parents=True)
    own.write_text("0::/slurm/job/step\n")
    assert node_memory(groups, own) == physical
    (groups / "slurm" / "job" / "step" / "memory.max").write_text("max\n")
    (groups / "slurm" / "job" / "memory.max").write_text("5000000\n")
    (groups / "slurm" / "memory.max").write_text("9000000\n")
    assert node_memory(groups, own) == 5_000_000
    # Version 1, as seen from a container that does not see its own group.
    own.write_text("5:cpu,cpuacct:/a\n4:memory:/docker/abc\n0::/\n")
    (groups / "memory").mkdir()
    (groups / "memory" / "memory.limit_in_bytes").write_text("4000000\n")
    assert node_memory(groups, own) == 4_000_000


def test_a_file_system_without_locks_is_a_warning(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pipeline.node_cache.fcntl.lockf", no_locks)
    cache = NodeCache(str(tmp_path / "disk"))
    reader = cache.reader(shard("a", 1))
    with cache.filling():
        wait_for(lambda: "No locks available" in caplog.text)
    assert int(reader.read(0).image[0, 0, 0]) == 1
