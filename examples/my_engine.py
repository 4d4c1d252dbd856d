"""An engine of one's own: Transformers in a Ray actor, in place of vLLM. It decodes greedily, so it has one text a prompt.

    ray-distil distill teachers.slow.engine=null \\
        "teachers.slow.backend={build: examples.my_engine:build, model: teacher-r1, kwargs: {folder: PATH}}"
"""

from collections.abc import Callable
from typing import Any

THINK_END = "</think>"


def build(num_rows: int, folder: str, num_actors: int = 1, batch_size: int = 16) -> Callable[[Any], Any]:
    """Generation by the model in `folder`. The contract is in `ray_distil/generate/generation.py`."""

    def generate(rows: Any) -> Any:
        from ray.data import ActorPoolStrategy

        return rows.map_batches(
            Model,
            fn_constructor_kwargs={"folder": folder},
            batch_size=max(1, min(batch_size, num_rows)),
            compute=ActorPoolStrategy(size=num_actors),
        )

    return generate


class Model:
    """One copy of the model, in an actor. It answers a batch at a time, by greedy decoding."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # Prompts of one length, as the model reads them.
        conversations = [[dict(turn) for turn in messages] for messages in batch["messages"]]
        prompts = self.tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        max_tokens = int(batch["sampling_params"][0]["max_tokens"])
        tokens = self.model.generate(**prompts, max_new_tokens=max_tokens, do_sample=False)

        # Of each reply: its text, how it ended, and its tokens, with those of its thinking.
        start = prompts["input_ids"].shape[1]
        replies = [row[: self._length(row)] for row in tokens[:, start:].tolist()]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        thoughts = [text.partition(THINK_END)[0] if THINK_END in text else "" for text in texts]
        del batch["messages"], batch["sampling_params"]
        batch["generated_text"] = texts
        batch["finish_reason"] = ["length" if len(reply) == max_tokens else "stop" for reply in replies]
        batch["num_prompt_tokens"] = prompts["attention_mask"].sum(1).tolist()
        batch["num_generated_tokens"] = [len(reply) for reply in replies]
        batch["num_thinking_tokens"] = [len(self.tokenizer(thought)["input_ids"]) for thought in thoughts]
        batch["error"] = [""] * len(texts)
        return batch

    def _length(self, reply: list[int]) -> int:
        """The tokens of a reply up to the one that ends it."""
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return next((position + 1 for position, token in enumerate(reply) if token in ends), len(reply))
