"""The tokenizer of all tiny models: Qwen2's splitting rule, then byte-level BPE.

It is trained on the tiny world's texts and has some 800 tokens. A digit is a token, and a space with a digit behind it
is one too. So every number is read digit by digit: " 42." is " 4", "2", ".". <think> and </think> are tokens that
decoding keeps.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from ray_distil.chat.prompts import LONG2SHORT, instruction_messages, long2short_messages
from ray_distil.tiny.world import SUFFIX, draw_problem
from tools.tiny import texts

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
CHAT_TEMPLATE = (  # Qwen's, without its default system prompt
    "{%- for m in messages -%}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
MAX_LENGTH = 1024  # tokens
NUM_PROBLEMS = 3000


def corpus(num_problems: int = NUM_PROBLEMS, seed: int = 0) -> Iterator[str]:
    """Every kind of text that the models read or write, for each of `num_problems` problems."""
    rng = random.Random(seed)
    for _ in range(num_problems):
        problem = draw_problem(rng)
        reasoning = texts.slow_reasoning(problem, rng)
        yield instruction_messages(problem.question, SUFFIX)[0]["content"]
        yield reasoning
        yield problem.closing
        yield texts.short_response(problem)
        yield texts.story(problem, rng)
        yield long2short_messages(problem.question, str(problem.answer), reasoning)[1]["content"]
        yield LONG2SHORT
        yield "system\nuser\nassistant\n"


def build_tokenizer(folder: Path, num_problems: int = NUM_PROBLEMS) -> None:
    """Train the tokenizer and write it as AutoTokenizer and vLLM load it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    bytes_apart = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.NFC()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"), bytes_apart]
    )
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        corpus(num_problems),
        trainers.BpeTrainer(vocab_size=2000, min_frequency=20, show_progress=False, initial_alphabet=alphabet),
    )
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=["<|im_start|>"],
        model_max_length=MAX_LENGTH,
    )
    kept = ["<think>", "</think>", *(f" {digit}" for digit in range(10))]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in kept])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
