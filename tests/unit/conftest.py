"""What several unit tests use: a hub on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, forget


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub, and an empty cache of it."""
    with FakeHub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        for place in ("constants.HF_HUB_CACHE", "constants.HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(f"huggingface_hub.{place}", str(tmp_path / "cache"))
        forget()
        yield served
        forget()
