"""From the manifests of a run: rows that the gates kept out of training, and tokens that the rewriting saved."""

from typing import Any

from ray_distil.judge.gates import REASONS
from ray_distil.report.benchmark_tables import DASH
from ray_distil.store.manifest import Manifest
from ray_distil.store.shards import SOURCE

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
