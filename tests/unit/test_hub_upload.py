"""`export --push` by the real client of Hugging Face's hub, against a hub on this machine."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_distil.commands import export
from ray_distil.store.storage import Folder
from tests.fake_hub import WritableHub
from tests.unit.test_hub_export import digests, make_run

TOKEN = "hf_SECRET"
COMMAND = ["small", "--hub", "out", "--push"]


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """A hub on which the token of the environment may write as `me`, and a run in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_run(Folder.at(tmp_path / "small"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_login"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with WritableHub({TOKEN: ["me", "lab"]}) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        yield served


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --push: ")
    assert error.count("\n") == 1, error
    assert TOKEN not in error
    return error


def test_a_data_set_is_created_and_uploaded(
    web: WritableHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([*COMMAND, "me/short"]) == 0
    assert f"uploaded to {web.url}/datasets/me/short" in capsys.readouterr().out
    assert web.is_private == {"me/short": True}
    files = {path: data for path, data in web.datasets["me/short"].items()}
    assert files.keys() == digests(tmp_path / "out").keys()
    assert all((tmp_path / "out" / path).read_bytes() == data for path, data in files.items())
    assert b"load_dataset('me/short', split='train')" in files["README.md"]
    assert all(TOKEN.encode() not in data for data in files.values())


def test_a_second_upload_takes_the_place_of_the_first(web: WritableHub) -> None:
    assert export.main([*COMMAND, "me/short", "--artifact", "responses"]) == 0
    web.datasets["me/short"]["NOTES.md"] = b"mine"
    web.datasets["me/short"]["sft_examples/train-00001-of-00002.parquet"] = b"of an earlier one"
    assert export.main([*COMMAND, "me/short"]) == 0
    names = {"NOTES.md", "README.md", "sft_examples/train-00000-of-00001.parquet"}
    assert web.datasets["me/short"].keys() == names


def test_public_is_what_the_user_says_alone(web: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([*COMMAND, "lab/short", "--public"]) == 0
    assert web.is_private == {"lab/short": False}
    web.datasets["lab/short"].clear()
    assert "everybody can read lab/short; add --public" in refused([*COMMAND, "lab/short"], capsys)
    assert web.datasets["lab/short"] == {}


@pytest.mark.parametrize(
    ("name", "token", "status", "message"),
    [
        ("me/short", None, None, "there is no token of the hub; set HF_TOKEN"),
        ("me/short", "hf_WRONG", None, "the hub does not know the token"),
        ("nobody/short", TOKEN, None, "check that nobody is your name or an organisation of yours"),
        ("me/short", TOKEN, 503, "the hub cannot be reached (HTTP 503)"),
        ("me/short", TOKEN, 429, "the hub cannot be reached (HTTP 429)"),
        ("me/short", TOKEN, 422, "the hub refuses me/short (HTTP 422"),
    ],
)
def test_a_refusal_is_one_line_and_the_folder_stays(
    web: WritableHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    token: str | None,
    status: int | None,
    message: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    web.status = status
    error = refused([*COMMAND, name], capsys)
    assert message in error
    assert "the data set is in 'out'" in error
    assert (tmp_path / "out" / "README.md").is_file()
    assert web.datasets == {}


def test_no_network_is_told(
    web: WritableHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert "the hub cannot be reached (ConnectError)" in refused([*COMMAND, "me/short"], capsys)


def test_a_card_that_the_hub_does_not_take_is_told(web: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    web.yaml_errors = ['"license" must be one of [apache-2.0, mit, ...]']
    assert 'refuses the card (Invalid metadata in README.md. - "license" must be' in refused(
        [*COMMAND, "me/short"], capsys
    )


@pytest.mark.parametrize("name", ["short", "me/a/b", "me/", "me/a b", "me/a--b", "me/a.git", "https://hub/me/a"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(
    web: WritableHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert "is no name of a data set" in refused([*COMMAND, name], capsys)
    assert not (tmp_path / "out").exists()
    assert web.requests == []


def test_options_of_an_upload_need_one(web: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["small", "--hub", "out", "--public"], ["small", "out.json", "--push", "me/short"]):
        assert export.main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: --pu")
