"""Keys and tokens are in no file and on no page of a run."""

import pytest

from ray_distil.config.section import without_secrets
from ray_distil.runtime.redaction import redacted


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "hf_token", "api_key", "apikey", "OPENAI_API_KEY", "token", "db_password", "Authorization", "TOKEN_2"],
)
def test_values_under_the_names_of_secrets_are_hidden(name: str) -> None:
    assert without_secrets({"a": [{name: "abc"}]}) == {"a": [{name: "***"}]}


@pytest.mark.parametrize("name", ["api_key_env", "max_tokens", "stop_token_ids", "tokenizer", "keep", "monkey", "keys"])
def test_other_values_are_shown(name: str) -> None:
    assert without_secrets({name: "abc"}) == {name: "abc"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://api.test/v1?key=abc&version=2", "https://api.test/v1?key=***&version=2"),
        ("https://api.test/v1?api-key=abc#m", "https://api.test/v1?api-key=***#m"),
        (
            "abfs://data@mine.dfs.core.windows.net/runs?sas_token=abc",
            "abfs://data@mine.dfs.core.windows.net/runs?sas_token=***",
        ),
        ("abfs://:pass@mine/data", "abfs://***@mine/data"),
        ("s3://id:secret@bucket/a?region=eu&scheme=http", "s3://***@bucket/a?region=eu&scheme=http"),
        ("cannot open 's3://id:secret@bucket/a?x=abc', why?a=b", "cannot open 's3://***@bucket/a?x=***', why?a=b"),
        ("https://user@host/a", "https://***@host/a"),
        ("https://host/a@b?q=c", "https://host/a@b?q=***"),
    ],
)
def test_keys_in_uris_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
