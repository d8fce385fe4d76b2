"""Atomic publication: whole results or none, and nothing left beside them."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import publication
from pipeline.errors import OutputError
from pipeline.publication import published, scratch, unwritable, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def draft_name(target: str, process: int, host: str = "", token: str = "0123abcd") -> str:
    return f".{target}.draft-{host or socket.gethostname()}-{process}-{token}{Path(target).suffix}"


def test_a_draft_lies_beside_its_target_hidden_and_with_its_suffix(tmp_path: Path) -> None:
    target = tmp_path / "maps" / "0722.tif"
    with published(target) as (draft,):
        assert draft.parent == target.parent
        assert draft.name.startswith(".0722.tif.draft-")
        assert draft.suffix == ".tif"
        draft.write_bytes(b"pixels")
        assert not target.exists()
    assert target.read_bytes() == b"pixels"
    assert names(tmp_path) == ["maps", "maps/0722.tif"]


def test_two_copies_of_a_job_never_share_a_draft(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with published(target) as (first,), published(target) as (second,):
        first.write_text("orphan")
        second.write_text("requeued")
    assert target.read_text() == "orphan"
    assert names(tmp_path) == ["a.txt"]


def test_the_file_that_readers_wait_for_appears_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    replace = Path.replace

    def noted(draft: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(draft, target)

    monkeypatch.setattr(Path, "replace", noted)
    with published(tmp_path / "map.tif", tmp_path / "map.qml", tmp_path / "map.xml") as drafts:
        for draft, text in zip(drafts, "abc", strict=True):
            draft.write_text(text)
    assert order == ["map.xml", "map.qml", "map.tif"]
    assert (tmp_path / "map.tif").read_text() == "a"
    assert (tmp_path / "map.xml").read_text() == "c"


def test_drafts_reach_the_disk_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_sync(handle: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112
        fsync(handle)

    def noted_rename(draft: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(draft, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    (tmp_path / "another job's").touch()
    write_text(tmp_path / "a.txt", "a")
    assert calls == ["file", "rename", "folder"]
    calls.clear()
    with published(tmp_path / "a.lmdb") as (draft,):
        draft.mkdir()
        (draft / "data.mdb").touch()
        monkeypatch.setattr(Path, "rename", noted_rename)
    assert calls == ["folder", "file", "rename", "folder"]


def test_a_job_publishes_while_others_make_and_remove_drafts_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / draft_name("b.tif", os.getpid())
    other.touch()
    opened, open_file = [], os.open

    def late(path: Path, flags: int) -> int:
        other.unlink(missing_ok=True)
        opened.append(Path(path).name)
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", late)
    write_text(tmp_path / "a.txt", "text")
    assert opened[1:] == [tmp_path.name]
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_folder_with_nothing_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "0722.lmdb"
    target.mkdir()
    (target / "old").write_text("old")
    with published(target) as (draft,):
        (draft / "deep").mkdir(parents=True)
        (draft / "deep" / "new").write_text("new")
        assert (target / "old").read_text() == "old"
    assert names(tmp_path) == ["0722.lmdb", "0722.lmdb/deep", "0722.lmdb/deep/new"]


def test_a_file_replaces_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_an_exception_leaves_the_old_result_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    target.write_text("old")
    with (  # noqa: PT012
        pytest.raises(KeyError, match="body"),
        published(target, tmp_path / "b") as (draft, beside),
    ):
        draft.write_text("half")
        (tmp_path / f"{draft.name}.aux.xml").write_text("GDAL's")
        beside.mkdir()
        (beside / "half").touch()
        raise KeyError("body")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.tif"]


def test_a_body_that_writes_nothing_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), published(tmp_path / "a.tif", tmp_path / "b") as drafts:
        drafts[1].touch()
    assert names(tmp_path) == []


def test_the_old_folder_stays_where_the_new_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.lmdb"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename

    def refused(path: Path, to: Path) -> Path:
        if to == target and not path.name.endswith(".old"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError), published(target) as (draft,):
        draft.mkdir()
    assert names(tmp_path) == ["a.lmdb", "a.lmdb/old"]


# Sweeping


def test_drafts_of_dead_processes_are_swept_with_what_lies_beside_them(tmp_path: Path) -> None:
    stale = draft_name("a.tif", dead_process())
    (tmp_path / stale).touch()
    (tmp_path / f"{stale}.aux.xml").touch()
    (tmp_path / f"{stale}.old").mkdir()
    (tmp_path / f"{stale}.old" / "part").touch()
    write_text(tmp_path / "a.tif", "new")
    assert names(tmp_path) == ["a.tif"]


def test_drafts_of_living_processes_other_hosts_and_other_targets_are_kept(tmp_path: Path) -> None:
    dead, host = dead_process(), socket.gethostname()
    kept = [
        draft_name("a.tif", os.getpid()),
        draft_name("a.tif", dead, host=f"other-{host}"),
        # Host `node-7`, whose name goes on where that of host `node` ends, and 7 is nobody here.
        draft_name("a.tif", os.getpid(), host=f"{host}-{dead}"),
        draft_name("ba.tif", dead),
        draft_name("a.tif.aux.xml", dead),
        "a.tif.draft-notes",
    ]
    for name in kept:
        (tmp_path / name).touch()
    write_text(tmp_path / "a.tif", "new")
    assert names(tmp_path) == sorted([*kept, "a.tif"])


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    stale, other = draft_name("a[b].tif", dead_process()), draft_name("ab.tif", dead_process())
    (tmp_path / stale).touch()
    (tmp_path / other).touch()
    write_text(tmp_path / "a[b].tif", "new")
    assert names(tmp_path) == sorted([other, "a[b].tif"])


def test_a_killed_job_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    code = (
        "import os, pathlib, signal, sys\n"
        "from pipeline.publication import published\n"
        "with published(pathlib.Path(sys.argv[1])) as (draft,):\n"
        "    draft.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(publication.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=root, check=False)
    assert done.returncode == -9
    assert [name.startswith(".a.tif.draft-") for name in names(tmp_path)] == [True]
    write_text(target, "whole")
    assert names(tmp_path) == ["a.tif"]
    assert target.read_text() == "whole"


def test_scratch_files_are_gone_after_use_and_after_an_exception(tmp_path: Path) -> None:
    with scratch(tmp_path / "deep" / "a.tif", tmp_path / "b") as (first, second):
        assert first.suffix == ".tif"
        first.touch()
        second.mkdir()
    assert names(tmp_path) == ["deep"]
    with pytest.raises(KeyError), scratch(tmp_path / "deep" / "a.tif") as (first,):  # noqa: PT012
        first.touch()
        raise KeyError
    assert names(tmp_path) == ["deep"]


# Disks and folders that refuse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_room_that_is_left(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a.tif"
    with pytest.raises(OutputError) as caught, published(target) as (draft,):  # noqa: PT012
        draft.touch()
        raise OSError(number, os.strerror(number))
    assert caught.value.what == f"{target}: cannot be written ({os.strerror(number)})."
    (room,) = caught.value.items
    assert float(room.split()[0]) > 0
    assert room.endswith(f"GiB are free in {tmp_path}")
    assert caught.value.remedy.startswith("Make room or choose another `run` folder")
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_refuses_at_the_last_moment_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    where: tuple[object, str] = (os, "fsync") if call == "fsync" else (Path, "replace")
    monkeypatch.setattr(*where, refuse)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(No space left"):
        write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == []


def test_a_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import pathlib, resource, sys\n"
        "from pipeline.errors import OutputError\n"
        "from pipeline.publication import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_text(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    root = Path(publication.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.txt")],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "a.txt: cannot be written (File too large)." in done.stdout
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    users: list[Callable[[], object]] = [
        lambda: write_text(tmp_path / "run" / "a.txt", ""),
        lambda: scratch(tmp_path / "run" / "a.txt").__enter__(),
        lambda: write_text(tmp_path / "run" / "deeper" / "a.txt", ""),
    ]
    for use in users:
        with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(") as caught:
            use()
        assert "Make room" not in str(caught.value)
        assert str(tmp_path / "run") in caught.value.what


def test_a_folder_without_permission_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError) as caught:
        write_text(tmp_path / "run" / "a.txt", "")
    reason = f"Permission denied: {tmp_path / 'run'}"
    assert caught.value.what == f"{tmp_path / 'run' / 'a.txt'}: cannot be written ({reason})."
    assert caught.value.remedy.startswith("Mend that or choose another `run` folder")


def test_another_file_that_was_refused_is_named(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "siose.gpkg")
    with pytest.raises(OutputError, match=r"\(Permission denied: siose\.gpkg\)"), published(
        tmp_path / "a.tif"
    ):  # fmt: skip
        raise error
    own = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.tif"))
    assert "(Permission denied)" in unwritable(tmp_path / "a.tif", own).what


def test_other_errors_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), published(tmp_path / "a"):
        Path(tmp_path / "nowhere").read_text()


def test_a_draft_that_cannot_be_removed_does_not_hide_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(KeyError, match="the reason"), published(tmp_path / "a") as (draft,):  # noqa: PT012
        draft.touch()
        monkeypatch.setattr(Path, "unlink", refuse)
        raise KeyError("the reason")


def test_a_file_system_without_fsync_of_folders_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def picky(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"
