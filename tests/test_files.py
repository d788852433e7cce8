"""Writing and reading files: whole or not at all, and never through what somebody else has put there."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import threading
import time

import pytest

from sparsebench import files
from sparsebench.errors import SettingError, printable, reason
from sparsebench.files import (
    atomic,
    leads_out,
    make_shared,
    open_for_append,
    open_new,
    open_plain,
    remove_temporary_files,
    temporary_path,
    write_output,
    write_text,
)
from sparsebench.paths import LONGEST, file_name


def old(path):
    """Make a file older than a day."""
    os.utime(path, (time.time() - files.DAY - 60,) * 2)


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_names_of_temporary_files_say_whose_they_are_and_are_never_the_same(tmp_path):
    first, second = (temporary_path(tmp_path / "a.csv") for _ in range(2))
    assert first != second and first.name.startswith(f".a.csv.{socket.gethostname()}.{os.getpid()}.")
    assert len(os.fsencode(temporary_path(tmp_path / ("é" * 127)).name)) <= 255


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    host, dead = socket.gethostname(), dead_process()
    gone = [
        f".a.{host}.{dead}.0123abcd.tmp",
        f".a.{host}.{dead}.tmp",
        ".old.other-host.1.0123abcd.tmp",
        ".old.tmp",
    ]
    kept = [f".a.{host}.{os.getpid()}.0123abcd.tmp", ".a.other-host.1.0123abcd.tmp", ".a.tmp", "a.csv"]
    for name in [*gone, *kept]:
        (tmp_path / name).touch()
    for name in (".old.other-host.1.0123abcd.tmp", ".old.tmp"):
        old(tmp_path / name)
    folder = tmp_path / f".run.{host}.{dead}.ab.tmp"
    folder.mkdir()
    (folder / "summary.csv").touch()
    remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_temporary_link_of_somebody_elses_is_not_written_through(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    guessed = tmp_path / ".a.csv.tmp"
    guessed.symlink_to(victim)
    monkeypatch.setattr(files, "temporary_path", lambda path: guessed)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.csv", "new")
    for opened in (open_new, open_for_append):
        with pytest.raises(OSError, match=r"File exists|symbolic links"):
            opened(guessed)
    assert victim.read_text() == "mine" and guessed.is_symlink()


def test_a_failed_write_names_the_file_and_not_its_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as failed:
        write_text(tmp_path / "none" / "a.csv", "x")
    assert failed.value.filename == str(tmp_path / "none" / "a.csv")
    with pytest.raises(OSError, match="No space left") as failed, atomic(tmp_path / "b.csv"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (failed.value.filename, reason(failed.value)) == (str(tmp_path / "b.csv"), "the disk is full")
    assert list(tmp_path.iterdir()) == []


class TestOutput:
    """``-o``, which follows the policy of ``cp``."""

    def test_a_new_and_a_plain_file_are_written_whole_and_keep_their_mode(self, tmp_path):
        path = tmp_path / "table.csv"
        write_output(path, "one")
        path.chmod(0o640)
        write_output(path, "two")
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o640)
        assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]

    def test_a_link_is_written_through_and_stays_one(self, tmp_path):
        target, link = tmp_path / "target.csv", tmp_path / "link.csv"
        target.write_text("something longer")
        link.symlink_to(target)
        write_output(link, "new")
        assert link.is_symlink() and target.read_text() == "new"

    def test_other_names_of_a_file_show_the_same(self, tmp_path):
        path, other = tmp_path / "a.csv", tmp_path / "b.csv"
        path.write_text("something longer")
        os.link(path, other)
        write_output(path, "new")
        assert other.read_text() == "new" and os.path.samefile(path, other)

    def test_a_link_to_nothing_is_refused_as_cp_does(self, tmp_path):
        link = tmp_path / "link.csv"
        link.symlink_to(tmp_path / "elsewhere.csv")
        with pytest.raises(SettingError, match="a link to a file that does not exist"):
            write_output(link, "new")
        assert not (tmp_path / "elsewhere.csv").exists()

    def test_a_fifo_is_written_to_and_stays_one(self, tmp_path):
        fifo, got = tmp_path / "fifo", []
        os.mkfifo(fifo)
        reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
        reader.start()
        write_output(fifo, "rows\n")
        reader.join(20)
        assert got == ["rows\n"] and stat.S_ISFIFO(fifo.stat().st_mode)

    def test_devices_are_written_to_and_stay_devices(self):
        before = os.stat("/dev/full").st_rdev
        with pytest.raises(OSError, match="No space left") as failed:
            write_output(files.Path("/dev/full"), "rows")
        assert (failed.value.filename, reason(failed.value)) == ("/dev/full", "the disk is full")
        assert os.stat("/dev/full").st_rdev == before and stat.S_ISCHR(os.stat("/dev/full").st_mode)
        write_output(files.Path("/dev/null"), "rows")
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_only_plain_files_of_their_own_folder_are_read(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("secret")
    (folder / "plain").write_text("plain")
    (folder / "inside").symlink_to("plain")
    (folder / "outside").symlink_to(outside)
    (folder / "back").symlink_to("../run/plain")
    os.mkfifo(folder / "fifo")
    for name in ("plain", "inside", "back"):
        with open_plain(folder / name) as file:
            assert file.read() == b"plain"
    for name, why in (("outside", "a link out of its folder"), ("fifo", "not a plain file")):
        with pytest.raises(OSError, match=why):
            open_plain(folder / name)
    with pytest.raises(OSError, match="not a plain file"):
        open_plain(folder)
    assert leads_out(folder / "outside", folder) and not leads_out(folder / "inside", folder)
    assert leads_out(tmp_path / "running", folder), "a name that begins like the folder's is outside it"


def test_a_hidden_folder_takes_the_mode_and_the_group_of_the_one_it_is_in(tmp_path):
    if os.getuid():
        pytest.skip("only root may give a folder to any group")
    shared = tmp_path / "results"
    shared.mkdir()
    os.chown(shared, -1, 12345)
    shared.chmod(0o2775)
    before = os.umask(0o022)
    try:
        make_shared(shared / ".state")
    finally:
        os.umask(before)
    found = (shared / ".state").stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 0o2775)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet20_b-dpf-s0.9-seed0-0123456789", "resnet20_b-dpf-s0.9-seed0-0123456789"),
        ("données 100%, x=[1]", "données 100%, x=[1]"),
        ("org/name", "org%2Fname"),
        ("../../out", "%2E.%2F..%2Fout"),
        (".hidden", "%2Ehidden"),
        ("a\nb\x1b\u202e", "a%0Ab%1B%E2%80%AE"),
        ("", "%"),
        (".", "%2E"),
        ("x" * 255, "x" * 255),
    ],
)
def test_any_text_makes_one_file_name_and_good_names_stay(text, name, tmp_path):
    assert file_name(text) == name
    (tmp_path / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_too_long_keep_their_ends_and_stay_apart(tmp_path):
    first, second = file_name("é" * 200 + "-end"), file_name("é" * 201 + "-end")
    assert first != second and all(name.endswith("-end") for name in (first, second))
    assert all(len(os.fsencode(name)) <= LONGEST for name in (first, second))


def test_what_a_terminal_would_act_on_is_escaped():
    assert printable("a\x1b[31m\r\n\u202eb\x07\udcff") == r"a\x1b[31m\r\n\u202eb\x07\udcff"
    assert printable("90.88 ± 0.07 → é") == "90.88 ± 0.07 → é"
    assert printable("a\tb\n\x1b", keep="\n\t") == "a\tb\n\\x1b"
    assert str(SettingError("name", "a\nb", "\x1b[2J")) == r"name=a\nb: expected \x1b[2J"
