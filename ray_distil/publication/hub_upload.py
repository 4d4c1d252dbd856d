"""Uploads a folder to Hugging Face's hub as a data set, with the token of HF_TOKEN or of the login."""

import re
from pathlib import Path
from typing import Any

from ray_distil.errors import UserError
from ray_distil.store import hub

DATASET = "dataset"
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(name: str) -> None:
    """Raises UserError for a name that no data set of the hub can have."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    rule = "give OWNER/NAME, of letters, digits, hyphens, dots and underscores"
    if not NAME.fullmatch(name):
        raise UserError(f"--push: {name!r} is no name of a data set; {rule}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"--push: {name!r} is no name of a data set ({' '.join(str(error).split())}); {rule}"
        ) from error


def upload(folder: Path, name: str, public: bool = False) -> str:
    """Create the data set OWNER/NAME, if it is not there, and upload a folder to it; returns its address.

    Parquet files of an earlier upload go with the same commit; other files of the data set stay. Raises UserError where
    the hub does not answer or refuses, and for a data set that everybody can read where `public` is false.
    """
    from huggingface_hub import HfApi, get_token

    api, stays = HfApi(), f"the data set is in {str(folder)!r}"
    try:
        if get_token() is None:
            raise UserError(
                f"--push: there is no token of the hub; set HF_TOKEN to one that may write, or run `hf auth login`; {stays}"
            )
        address = str(api.create_repo(name, repo_type=DATASET, private=not public, exist_ok=True))
        if not public and not api.repo_info(name, repo_type=DATASET).private:
            raise UserError(f"--push: everybody can read {name}; add --public, or give another name; {stays}")
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            repo_type=DATASET,
            commit_message=f"Data set of {folder.name}",
            delete_patterns=["*.parquet"],
        )
    except UserError:
        raise
    except Exception as error:  # its types are many: no network, no right, a head that the hub does not take
        raise UserError(f"--push: {_refusal(name, error)}; {stays}") from error
    return address


def _refusal(name: str, error: Any) -> str:
    """What an error of huggingface_hub says of an upload, and the remedy."""
    owner, status = name.partition("/")[0], hub.status_of(error)
    if status == 401:
        return "the hub does not know the token; set HF_TOKEN to one that may write"
    if status in (402, 403, 404):
        return (
            f"the hub lets this token not write {name} (HTTP {status}); check that {owner} is your name or an organisation "
            "of yours, and that the token may write there"
        )
    if status is not None and 400 <= status < 500 and status != 429:
        return f"the hub refuses {name} (HTTP {status}: {' '.join(str(error).split())[:300]})"
    if isinstance(error, ValueError) and not hub.is_away(error):
        return f"the hub refuses the card ({' '.join(str(error).split())[:300]})"
    reason = f"HTTP {status}" if status else type(error).__name__
    return f"the hub cannot be reached ({reason}); check the network and HF_ENDPOINT, and run the same command again"
