"""What the reasons mean for which rows were rejected: a report explains those that its run has."""

from collections.abc import Iterable

from ray_distil.store.shards import SOURCE

MEANINGS = {
    # Records and problems.
    "not_an_object": "the record is no JSON object",
    "no_instruction": "the record has no text in `instruction`; see instructions.columns",
    "not_unicode": "the text holds half a character, which no file can hold",
    "bad_record": "the record cannot be read; the detail says what of it",
    "bad_answer": "`answer` is neither a text nor a number",
    "bad_choices": "the options of the multiple choice cannot be read",
    "bad_input": "`input` is no text",
    "bad_messages": "`messages` are no turns of a user and an assistant",
    "not_correct": "the source itself marks the response as wrong",
    "several_turns": "the conversation has several questions",
    "system_turn": "the conversation has a system turn; drop_system leaves it out",
    "duplicate": "the same text stands before it",
    "other_answer": "the same text stands before it, with another answer: one of the two is wrong",
    "near_duplicate": "almost the same problem, with the same numbers and the same reference, stands before it",
    "contaminated": "it holds a held-out problem, or one of a benchmark",
    "over_limit": "more problems than num_train, num_eval or max_problems takes",
    "over_share": "more problems of the source than its share takes",
    # Generation.
    "bad_prompt": "the messages hold no text that a model could be asked",
    "bad_key": "the key of the endpoint cannot be sent",
    "content_filter": "the endpoint refuses this text, or its own answer to it",
    "prompt_too_long": "prompt and max_tokens are more than the engine reads",
    "engine_error": "the engine failed on it",
    "kills_engine": "the engine ended each time this row was in it",
    "timeout": "the endpoint was silent for too long",
    "no_connection": "the endpoint was not reached",
    "bad_reply": "the endpoint's reply could not be read",
    "no_response": "the imported file has no response to it",
    "not_measured": "the engine gave no time",
    # Gates and packing.
    "incomplete": "the text was cut off at max_tokens",
    "no_answer": "the text states no answer",
    "wrong_answer": "the answer is not the reference",
    "unclear_answer": "no rule could compare the answer with the reference",
    "answer_timeout": "the comparison of the answer with the reference took too long",
    "no_steps": "the rewrite states only an answer, without a step",
    "not_shorter": "the rewrite is no shorter than its source",
    "thinks": "the direct teacher thought; teachers.direct_thoughts rejects that",
    "same_text": "another example of this problem has the same text",
    "no_conclusion": "the slow response has no text behind its thinking",
    "not_chosen": "another text of this problem was chosen; see curation.choose and curation.candidates",
    "too_short": "much shorter than the other texts of its problem; see curation.min_length",
    "too_easy": "the teachers solve its problem too often; see curation.pass_rate and curation.easy_fraction",
    "too_hard": "the teachers solve its problem too seldom; see curation.pass_rate",
    "minority_answer": "most responses to its problem state another answer",
    "no_majority": "no answer is that of more than half of the responses",
    "over_budget": "more tokens than curation.max_tokens",
    "too_long": "longer than packing.max_length; nothing is cut",
}
STATUS = "http_"


def meanings(reasons: Iterable[str]) -> dict[str, str]:
    """Reason -> its meaning, of those that are known: a gate or an endpoint of the user's own has others."""
    known_reasons = {}
    for reason in dict.fromkeys(reasons):
        text = MEANINGS.get(reason.removeprefix(SOURCE))
        if text is None and reason.startswith(STATUS):
            text = f"the endpoint refused it with status {reason.removeprefix(STATUS)}"
        if text is not None:
            known_reasons[reason] = f"of the slow response: {text}" if reason.startswith(SOURCE) else text
    return known_reasons
