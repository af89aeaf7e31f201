import pytest

from fcos_rpn.errors import UserError, make_folder, user_errors_as_messages


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
