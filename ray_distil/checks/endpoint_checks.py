"""One request of one token to each endpoint, before Ray starts and rows are paid for.

    the server cannot be reached, or no client can be built here     an error; a remark where the nodes ask, not this machine
    it refuses the key, the model or the parameters: 401, 404, ...   an error, with the server's own words
    it refuses the request as one of a single token: 400, 422        asked once more, with the limit that rows have
    it is busy, silent, or sends what a row would ask again for      nothing: rows wait and try again

An endpoint whose rows are all there is not asked. Where some of its rows are there, every error is a remark: the rows
that are missing may be another model's.
"""

import asyncio
import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray_distil.config import StagesConfig
from ray_distil.config.engine_config import EndpointConfig
from ray_distil.config.evaluation_config import folder_of
from ray_distil.config.findings import Finding, remark
from ray_distil.config.models import resolve_endpoint
from ray_distil.errors import BadReply, ConfigError
from ray_distil.generate import connections, generators
from ray_distil.generate.endpoint import KEY_OR_ACCOUNT, LIMITS, PROMPT, Requests, clients_of, settings_of, tries_of
from ray_distil.generate.generator import Generator
from ray_distil.runtime.redaction import redacted
from ray_distil.runtime.session import is_local
from ray_distil.store.manifest import read_manifest

SILENCE_S = 20.0  # of one request; a server that is silent for longer is busy, and no error
CONNECTIONS = 3  # tries to reach a server, with PAUSE_S between them
PAUSE_S = 1.0
REFUSED = {400, 422}  # also by servers to which one token is too few
PROXIES = {"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"}  # or in small letters
CERTIFICATES = {"SSL_CERT_DIR", "SSL_CERT_FILE"}
NUM_NAMED = 5  # of a server's models


@dataclass(frozen=True)
class Trial:
    """An endpoint and the generator that is tried on it. key: of the configuration. is_begun: some rows are there."""

    key: str
    endpoint: EndpointConfig
    generator: Generator
    is_begun: bool


def findings(config: StagesConfig, models: dict[str, str]) -> Iterator[Finding]:
    """A finding for each endpoint to which no row could be sent. `models`: as `resolve_models` returns them."""
    trials = list(_trials(config, models))
    if trials:
        yield from asyncio.run(_tried(trials))


def missing_keys(config: StagesConfig) -> Iterator[Finding]:
    """For a plan, which sends no request: a remark on each key of endpoints that is not in this environment."""
    remarks: dict[str, list[str]] = {}
    for key, endpoint in config.endpoints.items():
        try:
            resolve_endpoint(endpoint, "")
        except ConfigError as error:
            remarks.setdefault(str(error), []).append(key)
    for text, keys in remarks.items():
        yield remark("", ", ".join(keys) + text)


def _trials(config: StagesConfig, models: dict[str, str]) -> Iterator[Trial]:
    """One for each section with an endpoint, whoever asks it; without those whose artifacts are complete."""
    by_section: dict[str, list[Generator]] = {}
    for generator in generators.generators(config, models):
        if generator.endpoint is not None:
            by_section.setdefault(generator.backend_section, []).append(generator)
    for section, askers in by_section.items():
        names = {name for generator in askers for name in _artifacts(config, generator)}
        missing = [name for name in names if read_manifest(config.run_folder / name) is None]
        is_begun = len(missing) < len(names) or any((config.run_folder / n).files("part-", ".parquet") for n in missing)
        if missing and askers[0].endpoint is not None:
            yield Trial(f"{section}.endpoint", askers[0].endpoint, askers[0], is_begun)


def _artifacts(config: StagesConfig, generator: Generator) -> list[str]:
    """The artifacts of a generator's rows."""
    if generator.section == "long2short":
        return ["rewrites"]
    if generator.section.startswith("teachers."):
        return ["responses"]
    model = config.evaluation.models[int(generator.backend_section.rpartition(".")[2])]
    labels = [config.evaluation.label(benchmark) for benchmark in config.evaluation.benchmarks]
    return [f"eval/{model.name}/{folder_of(label)}" for label in labels]


async def _tried(trials: list[Trial]) -> list[Finding]:
    results = await asyncio.gather(*(_tried_urls(trial) for trial in trials))
    return [finding for result in results for finding in result]


async def _tried_urls(trial: Trial) -> list[Finding]:
    """The findings of all servers of an endpoint. Rows go to those that can be reached, so one of them is enough."""
    urls = trial.endpoint.urls
    results = await asyncio.gather(*(_answer(trial, url) for url in urls))
    away = [text for text, is_away in results if is_away]
    refusals = [Finding(trial.key, text, not trial.is_begun) for text, is_away in results if text and not is_away]
    is_error = len(away) == len(urls) and not trial.is_begun and is_local()
    return [*refusals, *(Finding(trial.key, text, is_error) for text in away)]


async def _answer(trial: Trial, url: str) -> tuple[str, bool]:
    """What is wrong with one server, "" for nothing, and whether it is that no request reaches it."""
    settings = settings_of(trial.endpoint, clients_of(trial.endpoint, 1))
    settings |= {"base_url": url, "total_timeout_s": SILENCE_S, "request_params": _of_one_token(trial.endpoint)}
    try:
        requests = Requests(settings)
    except Exception as error:  # noqa: BLE001  whatever the environment's certificates and proxies make of it
        return (
            f"no client can be built ({error}); see {_environment(PROXIES | CERTIFICATES) or 'the environment'}",
            True,
        )

    server = requests.servers.choose(None)
    try:
        return await _asked(requests, trial, url)
    finally:
        await server.client.close()


async def _asked(requests: Requests, trial: Trial, url: str) -> tuple[str, bool]:
    """As `_answer`: a request of one token; where that is refused, one as rows are sent."""
    is_short = True
    for number in range(1, CONNECTIONS + 1):
        try:
            await requests.send(requests.servers.choose(None), _body(requests, trial.generator, is_short), 0.0)
            return "", False
        except Exception as error:  # noqa: BLE001  each error of a request is judged
            if is_short and getattr(error, "status_code", None) in REFUSED:
                is_short = False
                requests.settings |= {"request_params": trial.endpoint.request_params}
                continue
            if not connections.is_unsent(error):
                return await _refusal(error, requests, trial, url), False
            if number == CONNECTIONS:
                words = requests.words(error)
                variables = _environment(PROXIES | (CERTIFICATES if "certificate" in words else set()))
                see = " and ".join(filter(None, ["base_url", variables]))
                return f"{redacted(url)} cannot be reached ({words}); see {see}", True
        await asyncio.sleep(PAUSE_S)
    return "", False


def _environment(names: set[str]) -> str:
    """Those of the variables that are set, each with its value; `names`: in capitals."""
    values = ((name, value) for name, value in sorted(os.environ.items()) if name.upper() in names and value)
    return ", ".join(f"{name}={redacted(value)}" for name, value in values)


def _of_one_token(endpoint: EndpointConfig) -> dict[str, Any]:
    """The request_params with 1 for each limit that they set."""
    return {name: 1 if name in LIMITS and value else value for name, value in endpoint.request_params.items()}


def _body(requests: Requests, generator: Generator, is_short: bool) -> dict[str, Any]:
    """A request as the generator's rows send it, with one token where `is_short`."""
    turns = [{"role": "system", "content": generator.system_prompt}] if generator.system_prompt else []
    limit = {"max_tokens": 1} if is_short else {}
    row = {
        "messages": [*turns, {"role": "user", "content": PROMPT}],
        "sampling_params": generator.sampling_params | {"seed": generator.seed} | limit,
    }
    return requests.request(row)[0]


async def _refusal(error: Exception, requests: Requests, trial: Trial, url: str) -> str:
    """Why each row would be refused as this request was, and what to do; "" for an error that may pass."""
    is_page = isinstance(error, BadReply) and error.message.startswith("not a reply")
    if isinstance(error, BadReply) and error.code != "bad_reply":
        return ""  # the server does not like this text
    if tries_of(error) != 1 and not is_page:
        return ""
    status, words = getattr(error, "status_code", None), requests.words(error)
    name, variable = trial.endpoint.model, trial.endpoint.api_key_env
    place = f"{redacted(url)} refuses a request" + (f" ({status}: {words})" if status else f" ({words})")
    if status in KEY_OR_ACCOUNT:
        key = f"the key in {variable}" if variable else "api_key_env, which is null"
        return f"{place}; see " + (f"the account of {key}" if status == 402 and variable else key)
    if is_page:
        return f"{place}; see base_url"

    # The server's list of models, where it has one without this one.
    models = await _models(requests, url)
    if models and name not in models:
        near = difflib.get_close_matches(name, models, n=1)
        listed = ", ".join(models[:NUM_NAMED]) + (", ..." if len(models) > NUM_NAMED else "")
        return f"{place}; it has no model {name!r}: " + (f"did you mean {near[0]!r}?" if near else f"there is {listed}")
    return f"{place}; see base_url, model {name!r}, request_params and sampling_params"


async def _models(requests: Requests, url: str) -> list[str]:
    """The names of the models that the server lists; [] where it lists none."""
    try:
        async with asyncio.timeout(SILENCE_S):
            listed = await requests.servers.choose(None).client.get("/models", cast_to=object)
    except Exception:  # noqa: BLE001  the list only makes the message better
        return []
    entries = listed.get("data") if isinstance(listed, dict) else None
    names = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [name for name in names if isinstance(name, str)]
