"""What of a URI is never shown: keys before the bucket, and options that may hold one."""

import re

URI = re.compile(r"\w+://[^\s'\"]+")
OPTION = re.compile(r"([^&=#]+)(=[^&#]*)")
HARMLESS = {"region", "scheme", "endpoint_override", "allow_delayed_open", "enable_tls", "blob_storage_authority",
            "dfs_storage_authority", "api-version", "version", "connect_timeout", "request_timeout"}  # fmt: skip


def redacted(text: str) -> str:
    """A text with *** for the keys in its URIs: s3://***@BUCKET, and secret_key=*** among a URI's options.

    All options are hidden but those of HARMLESS. The container in abfs://CONTAINER@ACCOUNT.dfs.core.windows.net is no key.
    """
    return URI.sub(lambda uri: _without_keys(uri[0]), text)


def _without_keys(uri: str) -> str:
    place, mark, options = uri.partition("?")
    scheme, _, rest = place.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and not (scheme.startswith("abfs") and ":" not in user):
        place = f"{scheme}://***{rest[len(user) :]}"
    return (
        place
        + mark
        + OPTION.sub(lambda option: option[1] + (option[2] if option[1].lower() in HARMLESS else "=***"), options)
    )
