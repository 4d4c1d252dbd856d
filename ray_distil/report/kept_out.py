"""From the manifests of a run: rows that were kept out of training, why and by what, and tokens that the rewriting saved."""

from typing import Any

from ray_distil.judge.gates import ACCEPTED, REASONS
from ray_distil.records.problem_facts import CONTAMINATED, EVAL, NEAR_DUPLICATE, TRAIN
from ray_distil.report.benchmark_tables import DASH
from ray_distil.runtime.session import counted
from ray_distil.selection.same_texts import SAME_TEXT
from ray_distil.store.manifest import Manifest, most_common
from ray_distil.store.shards import SOURCE

ALIKE_HEADER = ("Left out", "Problem", "It is like", "How much")
SOURCES_HEADER = ("Source", "Records", "Trained on", "Held out", "Left out")
LOOKED_FOR = "Test problems that were looked for"  # a line of `curation` begins so
DIFFICULTY_HEADER = ("Right responses", "Problems", "Share", "Learnt", "Characters of a text", "Of a learnt one")
_KINDS = {NEAR_DUPLICATE: "near-duplicate", CONTAMINATED: "holds a test problem"}
_RATES = (("none", 0.0), ("up to a quarter", 0.25), ("up to a half", 0.5), ("up to three quarters", 0.75), ("most", 0.999), ("all", 1.0))  # fmt: skip
HEADER = ("Gate", "Slow responses", "Their tokens", "Candidates", "Tokens of candidates")


def by_gate(rewrites: Manifest | None, examples: Manifest | None, gates: dict[str, bool]) -> list[dict[str, Any]]:
    """An entry for each gate: what it kept out of rewriting (`sources`) and out of training (`candidates`).

    Both have `rows` and `tokens`; `tokens` is None where the tokens of the rejected rows were not counted. A row counts
    for the first gate that it fails. gates: name -> whether the gate is on.
    """
    entries = []
    for name, on in gates.items():
        if name == "custom":  # their reasons are in the table of the stages
            continue
        reasons = [reason for reason, gate in REASONS.items() if gate == name]
        sources = _sums(rewrites, [SOURCE + reason for reason in reasons])
        entries.append({"gate": name, "on": on, "sources": sources, "candidates": _sums(examples, reasons)})
    return entries if rewrites or examples else []


def _sums(manifest: Manifest | None, reasons: list[str]) -> dict[str, int | None]:
    if manifest is None:
        return {"rows": 0, "tokens": 0}
    rows = sum(manifest.rejects.get(reason, 0) for reason in reasons)
    tokens = sum(manifest.rejected_tokens.get(reason, 0) for reason in reasons)
    return {"rows": rows, "tokens": tokens if tokens or not rows else None}


def rows_of(entries: list[dict[str, Any]]) -> list[list[str]]:
    """The entries of `by_gate` as a table."""
    table = []
    for entry in entries:
        cells = []
        for place in ("sources", "candidates"):
            rows, tokens = entry[place]["rows"], entry[place]["tokens"]
            cells += [f"{rows:,}", DASH if tokens is None else f"{tokens:,}"] if entry["on"] else [DASH, DASH]
        table.append([entry["gate"] + ("" if entry["on"] else " (off)"), *cells])
    return table


def rewriting(rewrites: Manifest | None) -> str:
    """E.g. "Rewriting made 41,003 tokens of 183,402: 22%, in 771 rewrites."; "" where tokens were not counted."""
    if rewrites is None or not rewrites.summary.get("tokens_before"):
        return ""
    tokens_before, tokens_after = rewrites.summary["tokens_before"], rewrites.summary["tokens_after"]
    return f"Rewriting made {tokens_after:,} tokens of {tokens_before:,}: {tokens_after / tokens_before:.0%}, in {rewrites.rows_out:,} rewrites."


def curation(instructions: Manifest | None, responses: Manifest | None, examples: Manifest | None) -> dict[str, Any]:
    """`lines`: sentences. `sources`: of several, what became of each. `difficulty`: problems by their pass rate. `alike`: problems beside those that they are like."""
    lines = [*_teachers(responses), *_test_problems(instructions), *_repeated(examples), *_doubted(examples)]
    of_examples = examples.summary if examples is not None else {}
    pairs = instructions.summary.get("pairs", {}) if instructions is not None else {}
    alike = [
        [_KINDS.get(reason, reason), pair["instruction"], pair["like"], pair["detail"]]
        for reason, of_reason in pairs.items()
        for pair in of_reason
    ]
    sources = instructions.summary.get("sources", {}) if instructions is not None else {}
    return {"lines": lines, "sources": _by_source(sources), "difficulty": by_difficulty(of_examples), "alike": alike}


def _by_source(sources: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [label, *(f"{counts[key]:,}" for key in ("rows", TRAIN, EVAL)), most_common(counts["rejects"]) or DASH]
        for label, counts in sources.items()
    ]


def _teachers(responses: Manifest | None) -> list[str]:
    """E.g. "direct is right on 98.1% of 1,700 responses; wrong_answer 30, incomplete 2"."""
    verdicts = responses.summary.get("verdicts", {}) if responses is not None else {}
    lines = []
    for teacher, counts in verdicts.items():
        total = sum(counts.values())
        wrong = most_common({reason: number for reason, number in counts.items() if reason != ACCEPTED})
        rate = f"{teacher} is right on {counts.get(ACCEPTED, 0) / total:.1%} of {counted(total, 'response')}"
        lines.append(rate + (f"; {wrong}" if wrong else ""))
    return lines


def _test_problems(instructions: Manifest | None) -> list[str]:
    """E.g. "Looked for in the training problems: held-out 300, math500 500; found: math500 3"."""
    test_sets = instructions.summary.get("test_sets", {}) if instructions is not None else {}
    if instructions is None or not test_sets:
        return []
    looked_for = ", ".join(f"{name} {number:,}" for name, number in test_sets.items())
    by_set = ", ".join(f"{name} {number:,}" for name, number in instructions.summary["contaminated"].items())
    return [f"{LOOKED_FOR} in the training problems: {looked_for}; found: {by_set or 'none'}"]


def _repeated(examples: Manifest | None) -> list[str]:
    """E.g. "2,401 of 3,824 texts repeat another text of the same problem, and are not learnt"; [] below a tenth."""
    number = examples.rejects.get(SAME_TEXT, 0) if examples is not None else 0
    if examples is None or not number or number < examples.rows_in / 10:
        return []
    return [
        f"{number:,} of {counted(examples.rows_in, 'text')} repeat another text of the same problem, and are not learnt"
    ]


def _doubted(examples: Manifest | None) -> list[str]:
    if examples is None or not (number := examples.summary.get("num_doubted")):
        return []
    ids = ", ".join(examples.summary["doubted"][:5])
    line = "the reference contradicts the teachers: none is right, and more than half state the same other answer"
    return [f"In {counted(number, 'problem')} {line}: {ids}{' ...' if number > 5 else ''}"]


def by_difficulty(examples: dict[str, Any]) -> list[list[str]]:
    """Problems by the share of right responses, with the texts before and after the choice. examples: their summary."""
    rates = {rate: [number, 0, 0] for rate, number in examples.get("pass_rates", {}).items()}
    total, lowest, rows = sum(number for number, _, _ in rates.values()), -1.0, []
    for name, highest in _RATES:
        number, _, _ = _sums_within(rates, lowest, highest)
        if number:
            _, num_texts, characters = _sums_within(examples.get("texts_by_rate", {}), lowest, highest)
            num_learnt, num_examples, characters_learnt = _sums_within(
                examples.get("learnt_by_rate", {}), lowest, highest
            )
            lengths = [_mean(characters, num_texts), _mean(characters_learnt, num_examples)]
            learnt = f"{num_learnt:,}" if num_texts else DASH
            rows.append([name, f"{number:,}", f"{number / total:.1%}", learnt, *lengths])
        lowest = highest
    return rows


def _sums_within(by_rate: dict[str, list[int]], lowest: float, highest: float) -> list[int]:
    """The sums of the three columns over the rates above `lowest`, up to `highest`."""
    columns = [row for rate, row in by_rate.items() if lowest < float(rate) <= highest]
    return [sum(column) for column in zip(*columns, strict=True)] if columns else [0, 0, 0]


def _mean(total: int, number: int) -> str:
    return f"{total / number:,.0f}" if number else DASH
