"""What the cards of a data set and of a student share: names and licences as the configuration gives them, and Markdown."""

import re
from collections.abc import Callable, Sequence
from html import escape
from operator import methodcaller
from typing import Any

from ray_distil.config.curation_config import CurationConfig
from ray_distil.records.sources import HUB, Source
from ray_distil.report.provenance import source_of
from ray_distil.runtime.redaction import redacted
from ray_distil.store import hub

TO_BE_ADDED = "to be added"
SPECIAL = re.compile(r"([\\`*\[\]|])")


def name_of(model: str) -> str:
    """The name of a model: ORG/NAME of the hub, or the last part of a folder, which is nobody's business."""
    return model if hub.is_hub_name(model) else redacted(model).partition("?")[0].rstrip("/").rpartition("/")[2]


def sampling_of(section: dict[str, Any]) -> str:
    """The sampling of a teacher that is set, e.g. "temperature 0.6, top_p 0.95, max_tokens 30720".

    Of imported responses nothing is known of it.
    """
    if section.get("responses") is not None:
        return "not known: imported"
    return ", ".join(f"{k} {v}" for k, v in (section.get("sampling_params") or {}).items() if v is not None)


def gates_of(saved: dict[str, Any]) -> str:
    """The gates that are on, e.g. "complete, correct, my_gates:polite"."""
    switches = saved.get("gates") or {}
    gates = [name for name, on in switches.items() if on and name != "custom"] + (switches.get("custom") or [])
    return ", ".join(gates) or "none"


def choice_of(saved: dict[str, Any]) -> str:
    """The keys of `curation` that are set, e.g. "choose shortest, keep 2"; "" where all texts that passed are learnt."""
    section, default = saved.get("curation") or {}, CurationConfig().model_dump(mode="json")
    return ", ".join(f"{key} {value}" for key, value in section.items() if value != default.get(key))


def sources_of(saved: dict[str, Any]) -> list[dict[str, str]]:
    """The sources of the problems: `label` as rows name it, `place` as OWNER/NAME@REVISION or a file's name, `licence`."""
    section = saved.get("instructions") or {}
    entries = section.get("sources") or [{"path": section.get("path") or "", "license": section.get("license")}]
    sources = []
    for entry in entries:
        place, licence = place_of(str(entry.get("path") or "")), str(entry.get("license") or TO_BE_ADDED)
        sources.append({"label": redacted(str(entry.get("label") or place)), "place": place, "licence": licence})
    return sources


def place_of(path: str) -> str:
    """A source of records without a machine's folders: OWNER/NAME@REVISION of the hub, or the name of the file."""
    return redacted(Source(path, "").label)


def hub_sources(saved: dict[str, Any]) -> list[str]:
    """The data sets of the hub among the sources, as OWNER/NAME."""
    section = saved.get("instructions") or {}
    entries = section.get("sources") or [section]
    paths = [str(entry.get("path") or "") for entry in entries]
    return list(dict.fromkeys(p.removeprefix(HUB).partition("@")[0] for p in paths if p.startswith(HUB)))


def licensed(saved: dict[str, Any], newest: dict[str, Any]) -> dict[str, Any]:
    """The configuration with which an artifact was made, with the licences that the newest one gives of the same things.

    So a licence that is given after the run stands on its cards, and none moves to another model or source.
    """

    def with_licence(old: Any, new: Any, same: Callable[[Any], Any]) -> Any:
        is_same = isinstance(old, dict) and isinstance(new, dict) and same(old) == same(new)
        return old | {key: new[key] for key in ("license", "student_license") if key in new} if is_same else old

    teachers, new_teachers = saved.get("teachers") or {}, newest.get("teachers") or {}
    licensed = saved | {
        "teachers": {k: with_licence(v, new_teachers.get(k), source_of) for k, v in teachers.items()},
        "long2short": with_licence(saved.get("long2short"), newest.get("long2short"), source_of),
        "training": with_licence(saved.get("training"), newest.get("training"), methodcaller("get", "student")),
    }

    # The problems: one path, or several sources.
    path = methodcaller("get", "path")
    problems, new_problems = saved.get("instructions") or {}, newest.get("instructions") or {}
    new_sources = {path(source): source for source in new_problems.get("sources") or []}
    sources = [with_licence(source, new_sources.get(path(source)), path) for source in problems.get("sources") or []]
    return licensed | {"instructions": with_licence(problems, new_problems, path) | {"sources": sources}}


def models_of(saved: dict[str, Any]) -> list[dict[str, str]]:
    """The models whose texts may be learnt, each with `role`, `name` and `licence`: the teachers, and a rewriter of its own."""
    teachers = {f"{k} teacher": v for k, v in (saved.get("teachers") or {}).items() if isinstance(v, dict)}
    long2short = saved.get("long2short") or {}
    if long2short.get("enabled") and source_of(long2short):
        teachers["rewriter"] = long2short
    return [
        {"role": role, "name": name_of(source_of(section)), "licence": str(section.get("license") or TO_BE_ADDED)}
        for role, section in teachers.items()
    ]


def plain(text: object) -> str:
    """A text as one line of Markdown that shows it as it is, also within a table; keys in URIs are left out."""
    return SPECIAL.sub(r"\\\1", escape(" ".join(redacted(str(text)).split()), quote=False))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table of Markdown; "" without rows."""
    lines = [list(header), ["---"] * len(header), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def listed(lines: Sequence[str]) -> str:
    """A list of Markdown, of lines that are Markdown themselves."""
    return "\n".join(f"- {line}" for line in lines)


def fenced(text: str, language: str = "text") -> str:
    """A text as a block of code, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
