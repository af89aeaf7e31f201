import errno

import pytest
import torch

from fcos_rpn.errors import UserError, make_folder, user_errors_as_messages, write_whole
from tests.traps import full_disk


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with write_whole(path) as file:
        file.write(b"one")
        assert not path.exists()
    with write_whole(path) as first, write_whole(path) as second:  # two processes
        first.write(b"two")
        second.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "write",
    [lambda file: file.write(bytes(100_000)), lambda file: torch.save(torch.zeros(100_000), file)],
    ids=["bytes", "torch"],
)
def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        full_disk(50_000),
        pytest.raises(UserError, match=r"/file: cannot be written \(File too large\); make room"),
        write_whole(path) as file,
    ):
        write(file)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt("x"), RuntimeError("x"), UserError("x")])
def test_other_errors_pass_and_leave_nothing(tmp_path, error):
    def write_half():
        with write_whole(tmp_path / "file") as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error), match=str(error)):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "new", "(File exists|Not a directory)")):
        with pytest.raises(UserError, match=rf"{path}: cannot be written \({reason}\)"), write_whole(path):
            raise AssertionError("is not reached")


def test_a_log_that_finds_the_disk_full_hides_no_message():
    def fail_twice():
        try:
            raise UserError("model.pth: cannot be written")
        finally:
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.json")

    with pytest.raises(SystemExit, match=r"^error: model\.pth: cannot be written$"), user_errors_as_messages():
        fail_twice()
    with pytest.raises(SystemExit, match=r"error: .*No space left on device: 'metrics"), user_errors_as_messages():
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.json")
    with pytest.raises(FileNotFoundError), user_errors_as_messages():
        raise FileNotFoundError(errno.ENOENT, "No such file", "code.py")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    make_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    with pytest.raises(UserError, match="file: cannot be made or written"):
        make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("raised", "message"), [(UserError("no such file"), "error: no such file"), (KeyboardInterrupt(), "\ngo on later")]
)
def test_tools_end_with_one_message(raised, message):
    with pytest.raises(SystemExit) as ended, user_errors_as_messages(when_stopped="go on later"):
        raise raised
    assert ended.value.code == message


def test_a_worker_that_died_is_explained():
    with pytest.raises(SystemExit) as ended, user_errors_as_messages():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert "worker (pid 7) is killed" in str(ended.value.code)
    assert "DATALOADER.NUM_WORKERS" in str(ended.value.code)
    with pytest.raises(RuntimeError, match="a mistake of ours"), user_errors_as_messages():
        raise RuntimeError("a mistake of ours")
