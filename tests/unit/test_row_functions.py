"""The stages' row functions, without Ray: ids, seeds, prompts, lineage, and where a row is rejected."""

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from ray_distil.chat import tokenization
from ray_distil.chat.prompts import LONG2SHORT
from ray_distil.config.engine_config import EngineConfig
from ray_distil.config.models import resolve_model
from ray_distil.errors import UserError
from ray_distil.generate import engine, generation, token_rows
from ray_distil.generate.question import Question
from ray_distil.judge.gates import GATES, first_reason
from ray_distil.stages import asking, responses, rewrites, sft_examples
from ray_distil.store.shards import REASON

ALL = list(GATES)
PARAMS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 100}
PROBLEM = {
    "instruction_id": "i1",
    "instruction": "2 + 3?",
    "reference_answer": "5",
    "split": "train",
}


@pytest.mark.parametrize(
    ("num_rows", "engines", "expected"),
    [
        (10_000_000, [200, 200], (32, 128)),
        (4096, [1, 1], (32, 128)),
        (240, [8, 8], (30, 1)),
        (1000, [1, 4], (32, 8)),  # as if all four come
        (3, [1, 8], (1, 1)),
        (0, [1, 1], (1, 1)),
    ],
)
def test_an_engines_batches_are_its_share_of_the_rows(
    num_rows: int, engines: list[int], expected: tuple[int, int]
) -> None:
    assert engine.batches_of(EngineConfig(model_source="m", concurrency=engines), num_rows) == expected


@pytest.mark.parametrize(
    ("gpus_of_nodes", "tensor", "pipeline", "expected"),
    [
        ([8, 8], 8, 1, "STRICT_PACK"),
        ([4, 4], 8, 1, "PACK"),
        ([8, 8], 8, 2, "PACK"),
        ([0, 8], 1, 1, "STRICT_PACK"),
        ([], 8, 1, "PACK"),  # nodes may come
    ],
)
def test_an_engine_is_on_one_node_where_one_holds_it(
    gpus_of_nodes: list[int], tensor: int, pipeline: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 64, "GPU": gpus, "teacher": 8}} for gpus in gpus_of_nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64, "GPU": 99, "teacher": 99}}
    monkeypatch.setattr("ray.nodes", lambda: [*nodes, dead])
    kwargs = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    config = EngineConfig(model_source="m", engine_kwargs=kwargs, num_gpus=1, resources={"teacher": 1})
    assert engine.strategy(config) == expected


def ask(row: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    question = Question(PARAMS, num_samples=3, suffix="!")
    return responses.requests(row, "slow", replace(question, **changes))


def test_samples_are_rows_with_their_own_recorded_seeds() -> None:
    made = ask(PROBLEM)
    assert [r["sample_index"] for r in made] == [0, 1, 2]
    assert len({r["id"] for r in made}) == len({r["sampling_params"]["seed"] for r in made}) == 3
    assert made == ask(PROBLEM)
    assert [r["seed"] for r in made] != [r["seed"] for r in ask(PROBLEM, seed=1)]
    assert made[0]["messages"] == [{"role": "user", "content": "2 + 3?!"}]


def test_held_out_problems_are_never_asked() -> None:
    assert ask(PROBLEM | {"split": "eval"}) == []


def test_a_fraction_is_asked_and_counted() -> None:
    ids = [f"i{k}" for k in range(2000)]
    asked = [i for i in ids if ask(PROBLEM | {"instruction_id": i}, fraction=0.25)]
    assert 400 < len(asked) < 600
    assert asking.num_requests(ids, "slow", 0.25, 3) == 3 * len(asked)


def generated(**changes: Any) -> dict[str, Any]:
    text = "<think>\n2 + 3 = 5\n</think>\n\n\\boxed{5}"
    row = ask(PROBLEM)[0] | {"generated_text": text, "finish_reason": "stop", "num_prompt_tokens": 9}
    counts = {"num_prompt_tokens": 3, "num_generated_tokens": 20, "num_thinking_tokens": 0}
    return row | counts | {"error": ""} | changes


def response(**changes: Any) -> dict[str, Any]:
    return responses.response_row(generated(**changes), "m", PARAMS)


def test_response_is_split_and_keeps_its_seed() -> None:
    row = response()
    assert (row["reasoning"], row["answer"]) == ("2 + 3 = 5", "5")
    assert json.loads(row["sampling_params"])["seed"] == row["seed"]


def test_an_error_becomes_a_reject_with_its_code() -> None:
    row = response(error="prompt_too_long: 9 tokens", generated_text="", finish_reason="error")
    assert (row[REASON], row["reject_detail"]) == ("prompt_too_long", "9 tokens")


def test_tokens_that_an_endpoint_does_not_count_are_null() -> None:
    row = response(num_prompt_tokens=0, num_generated_tokens=0)
    assert (row["num_prompt_tokens"], row["num_generated_tokens"]) == (None, None)
    row = rewrite("2 + 3 = 5", num_prompt_tokens=0, num_generated_tokens=0)
    assert {row[name] for name in ("num_prompt_tokens", "num_generated_tokens", "rewritten_tokens")} == {None}
    assert (row["compression_ratio"], row["verdict"]) == (None, "accepted")
    assert rewrite("5", num_generated_tokens=0)["verdict"] == "no_steps"


def rewrite(text: str, **changes: Any) -> dict[str, Any]:
    at_length = {"reasoning": "Hmm, 2 and 3. 2 + 3 is 4? No: 2 + 3 = 5. " * 3}
    request = rewrites.request(response() | at_length | changes, ALL, Question(PARAMS))
    counts = {"num_prompt_tokens": 3, "num_generated_tokens": 8, "num_thinking_tokens": 0}
    counts |= {name: changes.pop(name) for name in [*counts] if name in changes}
    row = request | {"generated_text": text, "finish_reason": "stop", "error": ""}
    return rewrites.rewrite_row(row | counts, "m", PARAMS)


def test_rewrite_request_is_the_recipes() -> None:
    messages = rewrites.request(response(), ALL, Question(PARAMS))["messages"]
    assert messages[0] == {"role": "system", "content": LONG2SHORT}
    assert messages[1]["content"] == "Problem: 2 + 3?\nAnswer: 5\nReasoning: 2 + 3 = 5"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({}, ""), ({"finish_reason": "length"}, "source_incomplete"), ({"reference_answer": "6"}, "source_wrong_answer")],
)
def test_only_correct_slow_responses_are_rewritten(change: dict[str, Any], reason: str) -> None:
    assert rewrites.request(response(**change), ALL, Question(PARAMS))["source_reason"] == reason


def test_verdicts() -> None:
    assert rewrite("2 + 3 = 5")["verdict"] == "accepted"
    assert rewrite("2 + 3 = 6")["verdict"] == "wrong_answer"
    assert rewrite("2 + 3 = 5", num_generated_tokens=8)["verdict"] == "not_shorter"
    assert rewrite("So \\boxed{5}.")["verdict"] == "no_steps"
    assert rewrite("")["verdict"] == "no_answer"
    assert rewrite("2 + 3 = 6", reference_answer=None)["verdict"] == "wrong_answer"


def test_what_the_rewriting_made_shorter_is_summed_where_both_are_counted() -> None:
    tables = [
        pa.table({"original_tokens": [90, None, 40], "rewritten_tokens": [20, 9, None]}),
        pa.table({"original_tokens": [10], "rewritten_tokens": [5]}),
    ]
    assert rewrites.shortened(tables) == {"tokens_before": 100, "tokens_after": 25}


def test_what_the_rewriter_thinks_is_no_part_of_the_rewrite() -> None:
    row = rewrite("<think>\nI shorten it to 6.\n</think>\n\n2 + 3 = 5", num_thinking_tokens=5)
    assert (row["reasoning"], row["answer"], row["verdict"]) == ("2 + 3 = 5", "5", "accepted")
    assert (row["rewritten_tokens"], row["num_generated_tokens"]) == (3, 8)


def test_a_text_whose_thinking_never_ends_is_not_complete() -> None:
    left_open = "<think>\n2 + 3 = 5, so \\boxed{5}"
    assert rewrite(left_open)["verdict"] == "incomplete"
    row = response(generated_text=left_open)
    assert sft_examples.response_example(row, ["complete"], "")[REASON] == "incomplete"
    assert rewrites.request(row, ALL, Question(PARAMS))["source_reason"] == "source_incomplete"


def test_rewrite_that_states_no_answer_gets_it_behind() -> None:
    row = sft_examples.rewrite_example(rewrite("2 + 3 = 5"), ALL, "!")
    assert row["completion"] == "2 + 3 = 5\n\nThe final answer is \\boxed{5}."
    assert row["prompt"] == "2 + 3?!"
    assert row["num_tokens"] == rewrite("2 + 3 = 5")["rewritten_tokens"]
    stated = sft_examples.rewrite_example(rewrite("2 + 3 = 5, so \\boxed{5}."), ALL, "!")
    assert stated["completion"] == "2 + 3 = 5, so \\boxed{5}."


@pytest.mark.parametrize("known", [{"source_answer": None}, {"source_answer": "Scan it once."}, {"source_answer": "6"}])
def test_no_box_is_put_behind_a_text_whose_result_is_not_known_to_be_right(known: dict[str, Any]) -> None:
    row = rewrite("Scan the list once; the input has up to 10000 rows.") | {"reference_answer": None} | known
    assert sft_examples.rewrite_example(row, [], "")["completion"] == row["reasoning"]


def test_curation_rejects_by_the_gates_that_are_on() -> None:
    wrong = response(generated_text="\\boxed{6}")
    assert sft_examples.response_example(wrong, ALL, "")[REASON] == "wrong_answer"
    assert REASON not in sft_examples.response_example(wrong, ["complete"], "")
    assert sft_examples.response_example(wrong, ALL, "")["num_tokens"] == wrong["num_generated_tokens"]
    assert sft_examples.response_example(response(finish_reason="length"), ALL, "")[REASON] == "incomplete"
    assert sft_examples.response_example(response(generated_text=" "), [], "")[REASON] == "empty"


def test_a_reject_for_its_answer_has_the_answer_and_the_reference() -> None:
    wrong = response(generated_text="\\boxed{6}", teacher="slow")
    assert sft_examples.response_example(wrong, ALL, "")["reject_detail"] == "slow: 6, not 5"
    unclear = response(generated_text="\\boxed{" + "many words " * 30 + "}", reference_answer="(1, 2")
    row = sft_examples.response_example(unclear, ALL, "")
    assert row[REASON] != "unclear_answer" or row["reject_detail"].endswith("... beside (1, 2")
    assert len(row["reject_detail"]) < 150
    assert sft_examples.response_example(response(finish_reason="length"), ALL, "")["reject_detail"] == wrong["teacher"]
    request = rewrites.request(wrong, ALL, Question(PARAMS))
    (unfit,) = rewrites.unfit_batch(
        pa.Table.from_pylist([request | {"messages": None, "sampling_params": None}])
    ).to_pylist()
    assert (unfit[REASON], unfit["reject_detail"]) == ("source_wrong_answer", "6, not 5")


def test_prompts_are_encoded_as_the_template_says_and_poison_is_caught() -> None:
    model = resolve_model("tiny:teacher-r1", "k")
    good = [{"role": "user", "content": "Ann has 3 pens."}]
    messages = [good, None, [], [{"role": "user", "content": None}], [{"role": "user", "content": " "}]]
    messages += [[{"role": "user", "content": "pens " * 600}]]
    rows = [{"id": str(k), "messages": m, "sampling_params": PARAMS, "note": None} for k, m in enumerate(messages)]
    made = token_rows.encode_batch(pa.Table.from_pylist(rows), model, 512).to_pylist()
    codes = [row["__inference_error__"].partition(":")[0] for row in made]
    assert codes == ["", "bad_prompt", "bad_prompt", "bad_prompt", "bad_prompt", "prompt_too_long"]
    text = "<|im_start|>user\nAnn has 3 pens.<|im_end|>\n<|im_start|>assistant\n"
    assert tokenization.load_tokenizer(model).decode(made[0]["tokenized_prompt"]) == text
    assert json.loads(made[0]["carried"]) == {"id": "0", "note": None, token_rows.OPENED: ""}


@pytest.mark.parametrize("begun", [False, True])
def test_a_think_block_has_both_its_marks_where_the_prompt_began_it(begun: bool) -> None:
    model = resolve_model("tiny:teacher-r1", "k")
    ids = tokenization.encode_prompt([{"role": "user", "content": "Ann has 3 pens."}], model)
    opening = tokenization.load_tokenizer(model)("<think>\n", add_special_tokens=False)["input_ids"]
    assert tokenization.opens_thinking(ids + opening, model) == "<think>"
    assert tokenization.opens_thinking(ids, model) == ""

    thought, answer = "3 + 4 = 7\n</think>", "\n\n\\boxed{7}"
    text = thought + answer if begun else f"<think>\n{thought}{answer}"
    tokens = tokenization.load_tokenizer(model)(text, add_special_tokens=False)["input_ids"]
    made = {
        "carried": json.dumps({"id": "0", token_rows.OPENED: "<think>" if begun else ""}),
        "generated_text": text,
        "num_input_tokens": 9,
    }
    made |= {"generated_tokens": tokens, token_rows.INFERENCE_ERROR: ""}
    end = tokenization.token_ids("</think>", model)
    (row,) = token_rows.finish_batch(pa.Table.from_pylist([made]), frozenset({tokens[-1]}), end, model).to_pylist()
    assert row["generated_text"] == f"<think>\n{thought}{answer}"
    before = len(tokenization.token_ids(text.partition("</think>")[0] + "</think>", model))
    assert (row["num_thinking_tokens"], row["num_generated_tokens"]) == (before, len(tokens))
    assert 0 < before < len(tokens)
    assert token_rows.OPENED not in row


@pytest.mark.parametrize(
    ("tokens", "begin", "text", "expected"),
    [
        ([5, 6, 90, 91, 7, 90, 91], "", "<think> a </think> b </think>", 4),  # the first mark
        ([5, 6, 90, 91, 7], "<think>\n", "a </think> b", 4),
        ([5, 6, 7], "", "<think> a", 3),
        ([5, 6, 7], "<think>\n", "a", 3),
        ([5, 6, 7], "", "a", 0),
        ([], "", "", 0),
        # The mark is in other tokens: "<think>", "\n", "a", "b", "</think>", of which a prompt may have had the first.
        ([5] * 99, "", "<think>\nab</think> c", 5),
        ([5] * 99, "<think>\n", "ab</think> c", 3),
        ([5, 6, 7], "", "<think>\nab</think> c", 3),
    ],
)
def test_thinking_ends_with_its_mark(tokens: list[int], begin: str, text: str, expected: int) -> None:
    model = resolve_model("tiny:teacher-r1", "k")
    assert token_rows.num_thinking_tokens(tokens, begin, text, [90, 91], model) == expected


@pytest.mark.parametrize(
    ("code", "passes"),
    [("timeout", True), ("no_connection", True), ("engine_error", True), ("http_401", True), ("http_503", True),
     ("bad_reply", True), ("http_400", False), ("content_filter", False), ("prompt_too_long", False),
     ("kills_engine", False), ("tool_calls", False), ("source_wrong_answer", False)],
)  # fmt: skip
def test_a_transient_error_is_no_fault_of_the_row(code: str, passes: bool) -> None:
    assert generation.is_transient(code) == passes


def test_finish_reason_is_told_by_the_stop_token() -> None:
    stop = tokenization.stop_token_ids(resolve_model("tiny:teacher-r1", "k"))
    (end,) = stop
    assert token_rows.finish_reason([5, end], stop) == "stop"
    assert token_rows.finish_reason([end, 5], stop) == "length"
    assert token_rows.finish_reason([], stop) == "length"


def test_a_gate_that_this_process_lacks_passes_no_row() -> None:
    with pytest.raises(UserError, match=r"gates.no_pens: no such gate"):
        first_reason({}, ["no_pens"])
