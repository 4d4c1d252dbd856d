"""An endpoint that would answer no row is told before Ray starts, by one request; one that may answer is not refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.checks import endpoint_checks, preflight
from ray_distil.config import DistillConfig, load
from ray_distil.config.models import resolve_models
from ray_distil.store.artifact import Artifact
from ray_distil.store.schemas import RESPONSES
from ray_distil.store.storage import Folder
from tests.unit.endpoint_server import EndpointServer
from tests.unit.test_distill_job import distill

KEY = "sk-never-shown"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of our own, and an environment that names neither proxies nor certificates."""
    for name in ("RAY_ADDRESS", *endpoint_checks.PROXIES, *endpoint_checks.CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setattr(endpoint_checks, "PAUSE_S", 0.01)


def overrides(folder: Path, url: str | list[str], **settings: Any) -> list[str]:
    """The tiny recipe with a slow teacher by endpoint, which rewrites too."""
    endpoint = {"base_url": url, "model": "served", "api_key_env": "A_KEY"} | settings
    endpoint_override = f"teachers.slow.endpoint={json.dumps(endpoint)}"
    return [f"run.storage_path={folder}", "teachers.slow.engine=null", endpoint_override]


def findings(config: DistillConfig) -> list[tuple[bool, str]]:
    return [(finding.is_error, str(finding)) for finding in endpoint_checks.findings(config, resolve_models(config))]


def check(folder: Path, url: str | list[str], **settings: Any) -> list[tuple[bool, str]]:
    return findings(load(None, overrides(folder, url, **settings)))


@pytest.mark.parametrize(
    "fault", ["", "429", "500", "503", "close", "short", "json", "empty", "length", "error in 200"]
)
def test_a_server_that_may_answer_later_is_not_refused(fault: str, tmp_path: Path) -> None:
    with EndpointServer(*filter(None, [fault])) as server:
        assert check(tmp_path, server.url) == []
        ((_, body),) = server.requests
    assert (body["model"], body["max_tokens"]) == ("served", 1)


def test_a_silent_server_is_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint_checks, "SILENCE_S", 0.2)
    with EndpointServer("hang") as server:
        assert check(tmp_path, server.url) == []


def test_a_wrong_key_is_told_in_the_servers_words_without_the_key(tmp_path: Path) -> None:
    with EndpointServer("401") as server:
        ((is_error, text),) = check(tmp_path, server.url)
    assert is_error
    assert text == (
        f"teachers.slow.endpoint: {server.url} refuses a request (401: no such key: Bearer ***); see the key in A_KEY"
    )


def test_a_wrong_model_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    with EndpointServer("400", "400") as server:
        ((is_error, text),) = check(tmp_path, server.url, model="serve")
    assert is_error
    assert text.endswith("refuses a request (400: status 400); it has no model 'serve': did you mean 'served'?")
    with EndpointServer("400", "400", models={"data": [{"id": str(k)} for k in range(7)]}) as server:
        ((_, text),) = check(tmp_path, server.url)
    assert text.endswith("it has no model 'served': there is 0, 1, 2, 3, 4, ...")


@pytest.mark.parametrize("models", ["<html>no such page</html>", {"data": None}, [1], {"data": [{"id": "served"}]}])
def test_a_server_without_a_list_of_models_gets_its_words_told(models: Any, tmp_path: Path) -> None:
    with EndpointServer("400", "400", models=models) as server:
        ((is_error, text),) = check(tmp_path, server.url)
    assert is_error
    assert "refuses a request (400: status 400); see base_url, model 'served', request_params" in text


def test_a_server_to_which_one_token_is_too_few_is_asked_as_rows_are(tmp_path: Path) -> None:
    params = {"max_tokens": None, "max_completion_tokens": 700}
    with EndpointServer("400") as server:
        assert check(tmp_path, server.url, request_params=params) == []
        bodies = [body for _, body in server.requests]
    assert [body["max_completion_tokens"] for body in bodies] == [1, 700]
    assert all("max_tokens" not in body for body in bodies)


def test_a_page_is_no_endpoint(tmp_path: Path) -> None:
    with EndpointServer(odd=[(b"<html><body>Welcome</body></html>", "text/html")]) as server:
        ((is_error, text),) = check(tmp_path, server.url)
    assert is_error
    assert "a page, 'Welcome'; does the base_url end in /v1?" in text


def test_a_server_that_is_down_is_told_where_this_machine_asks_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EndpointServer() as server:
        down = "http://127.0.0.1:9/v1"
        ((is_error, text),) = check(tmp_path, down)
        assert is_error
        assert text.startswith(f"teachers.slow.endpoint: {down} cannot be reached (Cannot connect to host 127.0.0.1:9")
        assert text.endswith("; see base_url")
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        assert check(tmp_path, down) == [(False, text)]
        monkeypatch.delenv("RAY_ADDRESS")
        assert check(tmp_path, [server.url, down]) == [(False, text)]  # one of the two is enough


def test_certificates_and_proxies_of_the_environment_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    ((is_error, text),) = check(tmp_path, "https://127.0.0.1:9/v1")
    assert is_error
    assert "no client can be built ([Errno 2] No such file or directory); see SSL_CERT_FILE=/no/such/file" in text
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("ALL_PROXY", "socks5://name:secret@127.0.0.1:9")
    ((is_error, text),) = check(tmp_path, "https://api.example.com/v1")
    assert is_error
    assert text.endswith("see base_url and ALL_PROXY=socks5://***@127.0.0.1:9")


def test_an_endpoint_whose_rows_are_there_is_not_asked(tmp_path: Path) -> None:
    """Where some are there, what it says is a remark: the missing ones may be another model's."""
    direct = [*overrides(tmp_path, "http://127.0.0.1:9/v1"), "long2short.enabled=false"]
    config = load(None, direct)
    assert [is_error for is_error, _ in findings(config)] == [True]
    Folder.at(tmp_path / "tiny" / "responses").write_table("part-0.parquet", pa.table({"id": [1]}))
    assert [is_error for is_error, _ in findings(config)] == [False]

    target = Artifact(Folder.at(tmp_path / "tiny"), "responses", RESPONSES, "mark")
    target.start(resume=False)
    target.finish("responses", "responses", 0, 0.0, dict, None, False)
    assert findings(config) == []
    rewriting = load(None, overrides(tmp_path, "http://127.0.0.1:9/v1"))  # the same endpoint has rewrites to make
    assert [is_error for is_error, _ in findings(rewriting)] == [False]


def test_a_compared_model_by_endpoint_is_tried_too(tmp_path: Path) -> None:
    with EndpointServer("401") as server:
        endpoint = json.dumps({"base_url": server.url, "model": "m", "api_key_env": None})
        models = f"evaluation.models=[{{name: slow, endpoint: {endpoint}}}]"
        config = load(None, [f"run.storage_path={tmp_path}", models])
        ((is_error, text),) = findings(config)
    assert is_error
    assert text.startswith("evaluation.models.0.endpoint: ")
    assert text.endswith("see api_key_env, which is null")


def test_a_plan_asks_nobody_and_tells_of_a_missing_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with EndpointServer() as server:
        config = load(None, overrides(tmp_path, server.url))
        assert preflight.check_plan(config, None) == []
        monkeypatch.delenv("A_KEY")
        (remark,) = preflight.check_plan(config, None)
        assert not server.requests
    assert remark.startswith("teachers.slow.endpoint.api_key_env: 'A_KEY' is not set in the environment")


def test_a_run_ends_with_it_before_ray_starts(tmp_path: Path) -> None:
    result = distill(tmp_path, *overrides(tmp_path / "runs", "http://127.0.0.1:9/v1", api_key_env=None))
    assert result.returncode == 2, result.stderr
    assert "error: teachers.slow.endpoint: http://127.0.0.1:9/v1 cannot be reached" in result.stderr
    assert "messages of engines and workers" not in result.stdout
