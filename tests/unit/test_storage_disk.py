"""Directories as storage uses them, on the real disk and on the one that stands for it in tests."""

import errno
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, PowerCut
from zbusrpc.broker.storage.files import Disk, RealDisk, opened

BOTH = pytest.mark.parametrize("kind", [RealDisk, FaultyDisk])


def write(disk: Disk, path: str, data: bytes = b"data") -> None:
    with opened(disk, path, create=True) as file:
        file.append(data)
        file.sync()


def make_tree(disk: Disk, directory: str) -> None:
    """Make a directory with two files, and one below it with one."""
    disk.make_directory(f"{directory}/below")
    for name in ("1", "2", "below/3"):
        write(disk, f"{directory}/{name}", name.encode())
    disk.sync_directory(directory)
    disk.sync_directory(f"{directory}/below")


@BOTH
def test_file_with_two_names_lives_until_both_are_gone(kind: type[RealDisk | FaultyDisk], tmp_path: Path) -> None:
    """Another file may take one of its names meanwhile."""
    disk: Disk = kind()
    path, second, other = (str(tmp_path / "topic" / name) for name in ("1", "2", "3"))
    disk.make_directory(str(tmp_path / "topic"))
    write(disk, path, b"old")
    write(disk, other, b"new")

    disk.link(path, second)

    with pytest.raises(FileExistsError):
        disk.link(path, second)
    with pytest.raises(FileNotFoundError):
        disk.link(path + "x", path + "y")
    disk.rename(path, second)  # as POSIX has it, nothing happens
    disk.rename(other, path)
    assert disk.list(str(tmp_path / "topic")) == ["1", "2"]
    for name, data in ((path, b"new"), (second, b"old")):
        with opened(disk, name) as file:
            assert file.pread(9, 0) == data
    disk.remove(second)
    assert disk.list(str(tmp_path / "topic")) == ["1"]


@BOTH
def test_directory_is_renamed_with_all_in_it(kind: type[RealDisk | FaultyDisk], tmp_path: Path) -> None:
    """What is in it is found under the new name, and no more under the old one; open files go on."""
    disk: Disk = kind()
    directory = str(tmp_path / "topic")
    make_tree(disk, directory)
    with opened(disk, f"{directory}/1") as file:
        disk.rename(directory, f"{directory}.removed")

        assert file.pread(9, 0) == b"1"

    assert not disk.exists(directory)
    assert disk.list(f"{directory}.removed") == ["1", "2", "below"]
    with opened(disk, f"{directory}.removed/below/3") as file:
        assert file.pread(9, 0) == b"below/3"


@BOTH
def test_directory_does_not_replace_another(kind: type[RealDisk | FaultyDisk], tmp_path: Path) -> None:
    """A name that something has is refused, and both stay as they were."""
    disk: Disk = kind()
    make_tree(disk, str(tmp_path / "a"))
    make_tree(disk, str(tmp_path / "b"))

    with pytest.raises(OSError, match="not empty"):
        disk.rename(str(tmp_path / "a"), str(tmp_path / "b"))

    assert disk.list(str(tmp_path / "a")) == disk.list(str(tmp_path / "b")) == ["1", "2", "below"]


@BOTH
def test_directory_is_removed_with_all_in_it(kind: type[RealDisk | FaultyDisk], tmp_path: Path) -> None:
    """Files and directories below it go too; one that does not exist is an error, as is a directory as a file."""
    disk: Disk = kind()
    directory = str(tmp_path / "a" / "topic")
    make_tree(disk, directory)
    with pytest.raises(OSError, match=r"directory|not permitted"):  # macOS: not permitted
        disk.remove(directory)

    disk.remove_directory(directory)

    assert not disk.exists(directory)
    assert not disk.list(str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError):
        disk.remove_directory(directory)
    with pytest.raises(FileNotFoundError):
        disk.list(directory)
    make_tree(disk, directory)
    assert disk.list(directory) == ["1", "2", "below"]


@pytest.mark.parametrize("cut_after", range(1, 9))
def test_removed_directory_is_never_found_half(cut_after: int) -> None:
    """Who renames, syncs and then removes finds it after a power cut whole under its name, or not at all."""
    disk = FaultyDisk()
    make_tree(disk, "/topics/t")
    disk.cut_after = disk.changes + cut_after

    try:
        disk.rename("/topics/t", "/topics/t.removed")
        disk.sync_directory("/topics")
        disk.remove_directory("/topics/t.removed")
        disk.sync_directory("/topics")
        is_removed = True
    except PowerCut:
        is_removed = False

    for title, image in disk.images():
        if image.exists("/topics/t"):
            assert image.list("/topics/t") == ["1", "2", "below"], title
            assert bytes(image.names["/topics/t/below/3"].data) == b"below/3", title
        if cut_after > 1 or is_removed:
            assert not image.exists("/topics/t"), title
        if is_removed:
            assert not image.list("/topics"), title


def test_failed_removal_of_a_directory_can_be_tried_again() -> None:
    """What was not removed is still there."""
    disk = FaultyDisk()
    make_tree(disk, "/t")
    disk.fail("remove_directory", errno.EIO, call=2)

    with pytest.raises(OSError, match="Input/output error"):
        disk.remove_directory("/t")

    assert disk.list("/t") == ["2", "below"]
    disk.remove_directory("/t")
    assert not disk.exists("/t")
