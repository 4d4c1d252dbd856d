"""The card of a data set: README.md, whose head Hugging Face's hub and `load_dataset` read, and whose text says how it was made.

Nothing is guessed: a licence that nobody has given is "to be added", and a language is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_distil.config.evaluation_config import HELD_OUT, built_in
from ray_distil.judge import reasons
from ray_distil.publication.data_files import SPLIT, Written
from ray_distil.publication.problem_columns import ProblemColumns
from ray_distil.report import cards, excerpts, kept_out
from ray_distil.report.cards import TO_BE_ADDED, fenced, listed, plain, table
from ray_distil.report.provenance import configuration, declared, earlier, saved_config, source_of
from ray_distil.runner import frozen
from ray_distil.runtime.session import counted
from ray_distil.store import hub
from ray_distil.store.manifest import Manifest, content_mark, read_manifest
from ray_distil.store.storage import Folder
from ray_distil.version import __version__

MADE_BY = "Made by ray_distil"
DEFAULT = "sft_examples"
STAGES = ("instructions", "responses", "rewrites", "sft_examples")
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
EDGES = np.array([0, *2 ** np.arange(4, 18), 2**31])  # of the lengths in tokens
SHOWN = 2000  # characters of a text among the examples
BAR = 30  # signs of the longest bar
COLUMNS = {
    "messages": "the problem as the user's turn, and the text as the assistant's",
    "origin": "whose text it is: direct or slow teacher, rewrite, conclusion of a slow response",
    "teacher": "direct or slow",
    "model": "the model that wrote the text",
    "sample_index": "number among the responses of a teacher to a problem",
    "source": "where the problem comes from",
    "answer": "the answer that the text states",
    "source_answer": "the answer of the slow response that was rewritten",
    "reference_answer": "the right answer, where the source has one",
    "verdict": "accepted, or the reason of the first gate that the text fails",
    "pass_rate": "share of the teachers' responses to the problem that are right; null without a reference or a verdict",
    "finish_reason": "stop, or length where the text was cut",
    "num_tokens": "tokens that the model generated for the text, by its own tokenizer; null where nobody counted",
    "original_tokens": "tokens of the slow response",
    "sampling_params": "sampling of the text, as JSON",
    "instruction_id": "hash of the problem, the same in each configuration",
    "example_id": "hash of the text's origin",
    "response_id": "id of the teacher's response",
    "rewrite_id": "id of the rewrite",
}


@dataclass
class TokenCounts:
    """Of the examples of each origin, how many have how many tokens. Memory: a few numbers for each origin."""

    counts: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """rows: with `origin` and `num_tokens`."""
        for origin in pc.unique(rows["origin"]).to_pylist():
            tokens = rows.filter(pc.equal(rows["origin"], origin))["num_tokens"].drop_null().to_numpy()
            self.counts[origin] = self.counts.get(origin, 0) + np.histogram(tokens, EDGES)[0]
            self.totals[origin] = self.totals.get(origin, 0) + int(tokens.sum())


@dataclass
class Contents:
    """All that a card says. name: as `load_dataset` takes it; licence: of the whole, None where nobody has given it."""

    run: Folder
    name: str
    licence: str | None
    written: dict[str, Written]
    problems: ProblemColumns
    tokens: TokenCounts

    def __post_init__(self) -> None:
        manifests = {name: read_manifest(self.run / name) for name in STAGES}
        examples, rewrites = manifests[DEFAULT], manifests["rewrites"]
        inputs = examples.made_of.get("inputs") if examples is not None else None
        if rewrites is not None and inputs is not None and content_mark(rewrites) not in inputs:
            manifests["rewrites"] = None  # of an earlier configuration: the examples are made without them
        self.manifests: dict[str, Manifest] = {name: m for name, m in manifests.items() if m is not None}
        newest = saved_config(self.run)
        self.configs = {name: cards.licensed(configuration(self.run, manifests[name]), newest) for name in STAGES}

    @property
    def title(self) -> str:
        return self.run.name


def card(contents: Contents) -> str:
    """The text of README.md."""
    examples = contents.written[DEFAULT]
    parts = [
        f"---\n{_metadata(contents)}\n---",
        f"# {plain(contents.title)}",
        f"{counted(examples.num_examples, 'training example')} by larger models, for the distillation into a smaller one.",
        *_use(contents),
        *_making(contents),
        *_problems(contents),
        *_texts(contents),
        *_licences(contents),
    ]
    versions = contents.manifests[DEFAULT].versions
    parts += ["## Versions", ", ".join(f"{plain(name)} {plain(number)}" for name, number in versions.items())]
    return "\n\n".join(filter(None, [*parts, f"{MADE_BY} {__version__}."])) + "\n"


def size_category(number: int) -> str:
    """The hub's name for a number of rows, e.g. "1K<n<10K"."""
    return SIZES[sum(number >= 1000 * 10**power for power in range(len(SIZES) - 1))]


def _metadata(contents: Contents) -> str:
    """The head, in the form of the libraries that read it."""
    from datasets import DatasetInfo, Features
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    total = sum(figures.num_examples for figures in contents.written.values())
    has_rewrites = "rewrites" in contents.manifests
    data = DatasetCardData(
        pretty_name=contents.title,
        license=contents.licence,
        size_categories=[size_category(total)],
        source_datasets=cards.hub_sources(contents.configs["instructions"]) or None,
        task_categories=["text-generation"],
        tags=["synthetic", "distillation", "reasoning", *(["long2short"] if has_rewrites else [])],
    )
    infos = {}
    for name, figures in contents.written.items():
        split = SplitInfo(name=SPLIT, num_bytes=figures.num_bytes, num_examples=figures.num_examples)
        infos[name] = DatasetInfo(
            features=Features.from_arrow_schema(figures.schema),
            splits=SplitDict({SPLIT: split}),
            download_size=figures.file_bytes,
            dataset_size=figures.num_bytes,
        )
    DatasetInfosDict(infos).to_dataset_card_data(data)
    configs: dict[str, dict[str, Any]] = {
        name: {"data_files": [{"split": SPLIT, "path": f"{name}/{SPLIT}-*"}]} for name in contents.written
    }
    configs[DEFAULT] = {"default": True} | configs[DEFAULT]
    MetadataConfigs(configs).to_dataset_card_data(data)
    return str(data.to_yaml())


def _use(contents: Contents) -> Iterator[str]:
    yield "## Use"
    lines = ["from datasets import load_dataset", ""]
    for name in contents.written:
        which = "" if name == DEFAULT else f", {name!r}"
        lines.append(f"{name} = load_dataset({contents.name!r}{which}, split={SPLIT!r})")
    yield fenced("\n".join(lines), "python")
    for name, figures in contents.written.items():
        yield f"`{name}`, {counted(figures.num_examples, 'row')}:"
        yield table(["Column", "What it is"], [[column, COLUMNS[column]] for column in figures.schema.names])
    suffix = str((contents.configs[DEFAULT].get("instructions") or {}).get("suffix") or "")
    if suffix.strip():
        yield f"In `{DEFAULT}` this stands behind each problem:"
        yield fenced(suffix.strip("\n"))


def _making(contents: Contents) -> Iterator[str]:
    """Stages, teachers, gates, choice."""
    manifests = contents.manifests.values()
    notes = earlier(contents.run, list(manifests))
    yield "## How it was made"
    rows = [[m.artifact, f"{m.rows_in:,}", f"{m.rows_out:,}", f"{m.rows_rejected:,}", m.unit] for m in manifests]
    yield table(["Stage", "In", "Out", "Rejected", "Counted in"], rows)
    yield listed([f"{name} is of earlier settings: {plain(note)}" for name, note in notes.items()])
    meanings = reasons.meanings(reason for m in manifests for reason in m.rejects)
    rows = [[m.artifact, k, f"{number:,}", meanings.get(k, "")] for m in manifests for k, number in m.rejects.items()]
    yield table(["Stage", "Reason", "Rows", "Why they were rejected"], rows)

    # Who wrote the texts, and how often they are right.
    saved, commits = contents.configs["responses"], frozen.read(contents.run)
    teachers = [(f"{name} teacher", s) for name, s in (saved.get("teachers") or {}).items() if isinstance(s, dict)]
    long2short = contents.configs["rewrites"].get("long2short") or {}
    if "rewrites" in contents.manifests and source_of(long2short):
        teachers.append(("rewriter", long2short))
    header = ["Model", "Name", "Revision", "Samples a problem", "Share of the problems", "Sampling"]
    yield table(header, [_model_row(role, section, commits) for role, section in teachers])
    curation = kept_out.curation(*(contents.manifests.get(name) for name in ("instructions", "responses", DEFAULT)))
    yield listed([plain(line) for line in curation["lines"]])
    yield plain(kept_out.rewriting(contents.manifests.get("rewrites")))

    saved = contents.configs[DEFAULT]
    judge = (saved.get("answers") or {}).get("judge")
    rules = (
        f"`{judge}`" if judge else f"math-verify {contents.manifests[DEFAULT].versions.get('math-verify', '')}".strip()
    )
    choice = cards.choice_of(saved) or "all texts that passed the gates"
    yield listed([
        f"Gates: {plain(cards.gates_of(saved))}.",
        f"Answers are compared with their references by {rules if judge else f'rules for numbers, units and forms, and {rules}'}.",
        f"Choice: {plain(choice)}.",
    ])  # fmt: skip


def _model_row(role: str, section: dict[str, Any], commits: dict[str, str]) -> list[str]:
    """A model's line: who it is, and how it was asked."""
    source = source_of(section)
    engine_revision = ((section.get("engine") or {}).get("engine_kwargs") or {}).get("revision")
    commit = commits.get(f"{source}@{engine_revision}") or commits.get(source) or engine_revision
    name, revision = hub.split(source) if hub.is_hub_name(source) else (cards.name_of(source), None)
    samples, fraction = section.get("num_samples"), section.get("fraction")
    share = "" if fraction is None else f"{fraction:.0%}"
    return [role, name, str(commit or revision or ""), str(samples or ""), share, cards.sampling_of(section)]


def _problems(contents: Contents) -> Iterator[str]:
    """Difficulty, and the test problems that were looked for."""
    manifest = contents.manifests.get("instructions")
    of_sources = kept_out.curation(manifest, None, None)["sources"]
    if of_sources:
        yield "## Problems by source"
        yield table(kept_out.SOURCES_HEADER, of_sources)
    if difficulty := kept_out.by_difficulty({"pass_rates": contents.problems.by_pass_rate()}):
        yield "## Problems by pass rate"
        yield "Of the problems with a reference, by the share of the teachers' responses that are right:"
        yield table(kept_out.DIFFICULTY_HEADER[:3], [row[:3] for row in difficulty])

    test_sets = manifest.summary.get("test_sets", {}) if manifest is not None else {}
    yield "## Decontamination"
    if manifest is None or not test_sets:
        yield "No test problems were looked for among the training problems."
        return
    saved = contents.configs["instructions"]
    declarations, num_found = declared(saved), manifest.summary.get("contaminated", {})
    rows = []
    for name, number in test_sets.items():
        declaration = declarations.get(name) or built_in().get(name) or {}
        place = "held out of the problems" if declaration.get("name") == HELD_OUT or name == HELD_OUT else ""
        if path := str(declaration.get("path") or ""):
            place = cards.place_of(path)
        rows.append([name, place, f"{number:,}", f"{num_found.get(name, 0):,}"])
    coverage = ((saved.get("instructions") or {}).get("decontamination") or {}).get("coverage")
    share = f" more than {coverage} of" if coverage is not None else ""
    yield f"A training problem was left out where it holds{share} the 8-grams of a test problem."
    yield table(["Test set", "Where it is from", "Its problems", "Training problems left out"], rows)


def _texts(contents: Contents) -> Iterator[str]:
    """Lengths, and three examples."""
    yield "## Tokens"
    for origin, counts in sorted(contents.tokens.counts.items()):
        number, highest = int(counts.sum()), max(int(counts.max()), 1)
        mean = f", {contents.tokens.totals[origin] / number:,.0f} on average" if number else ""
        yield f"{plain(origin)}: {counted(number, 'example')} with counted tokens{mean}."
        bounds = zip(EDGES[:-1].tolist(), EDGES[1:].tolist(), counts.tolist(), strict=True)
        rows = [
            [
                f"{low:,}–{high - 1:,}" if high < EDGES[-1] else f"{low:,} or more",
                f"{n:,}",
                "█" * round(BAR * n / highest),
            ]
            for low, high, n in bounds
            if n
        ]
        yield table(["Tokens", "Examples", ""], rows)

    yield "## Examples"
    yield "Those with the smallest ids, which are hashes."
    columns = ["example_id", "origin", "prompt", "completion"]
    for row in excerpts.first_rows(contents.run / DEFAULT, columns, excerpts.NUM_SHOWN):
        yield f"`{row['example_id']}`, {plain(row['origin'])}:"
        yield fenced(f"user: {_shown(row['prompt'])}\n\nassistant: {_shown(row['completion'])}")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text) - SHOWN:,} more characters)"


def _licences(contents: Contents) -> Iterator[str]:
    yield "## Licences"
    yield f"Of this data set: {plain(contents.licence or TO_BE_ADDED)}."
    numbers = contents.problems.by_source()
    rows = []
    for source in cards.sources_of(contents.configs["instructions"]):
        label = source["label"]
        number = numbers.get(label, sum(numbers.values()) if len(numbers) == 1 else None)
        rows.append(
            [f"problems of {label}", source["place"], "" if number is None else f"{number:,}", source["licence"]]
        )
    rewriter = contents.configs["rewrites"].get("long2short") if "rewrites" in contents.manifests else None
    models = cards.models_of(contents.configs["responses"] | {"long2short": rewriter})
    rows += [[f"texts of the {model['role']}", model["name"], "", model["licence"]] for model in models]
    yield table(["Of", "Where it is from", "Training problems", "Licence"], rows)
