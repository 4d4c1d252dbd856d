"""The generation_config.json of an export: the base model's, mended where Transformers would not save it.

Transformers checks these settings when it saves a model, and not when it loads one. Published models have settings that
contradict each other, such as a temperature without do_sample; a training of theirs would fail at its very end.
"""

from typing import Any

from ray_distil.store.hub import local_copy

# Settings of sampling and of beam search, with the value that Transformers takes for "not set".
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
            "top_h": None}  # fmt: skip
OF_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def mend(config: Any) -> list[str]:
    """Change a GenerationConfig so that it can be saved. Returns what was changed, e.g. "do_sample is true"."""
    if _is_valid(config):
        return []
    changed = []
    if config.temperature == 0:  # greedy, as many write it
        config.temperature, config.do_sample = None, False
        changed.append("temperature 0 is do_sample: false")
    set_ = [name for name, unset in SAMPLING.items() if getattr(config, name, None) not in (None, unset)]
    if set_ and not config.do_sample and not _is_valid(config):
        if changed:
            for name in set_:
                setattr(config, name, None)
            changed.append(f"{', '.join(set_)} left out")
        else:
            config.do_sample = True
            changed.append(f"do_sample is true, because {', '.join(set_)} is set")
    if not _is_valid(config):
        left_out = _without_what_is_invalid(config)
        changed.append(f"{', '.join(left_out)} left out")
    return changed


def mended(model: str) -> list[str]:
    """What the export of a model would change in its generation_config.json; [] without such a file."""
    from ray_distil.chat.auto_classes import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(local_copy(model))
    except OSError:
        return []
    return mend(config)


def _without_what_is_invalid(config: Any) -> list[str]:
    """Leave settings out, one after the other, until the rest can be saved; all but token ids if need be."""
    names = [name for name in config.to_diff_dict() if name not in (*OF_TOKENS, "transformers_version")]
    default = type(config)()
    for name in names:  # one alone is the culprit most often
        value = getattr(config, name)
        setattr(config, name, getattr(default, name, None))
        if _is_valid(config):
            return [name]
        setattr(config, name, value)
    for name in names:
        setattr(config, name, getattr(default, name, None))
    return names


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
