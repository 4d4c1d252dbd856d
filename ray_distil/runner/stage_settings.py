"""The settings of an artifact: all that goes into its fingerprint beside its inputs.

    values      what changes which rows there are, or what they say; another value remakes the artifact
    marks       only for generated texts: part (e.g. a teacher) -> two marks, one of all that changes the texts, one of
                the limits to their length. A row is used again where both marks are equal; where only the limits
                differ, if its text would be the same under the new limits (`runner/reuse.py`)

A key of the configuration that is in neither of the two remakes nothing: the number of engines, the folder of the run,
how often a loss is logged.
"""

import json
from collections.abc import Callable, Collection, Container, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from ray_distil.config.section import without_secrets
from ray_distil.generate.generator import Generator
from ray_distil.store.manifest import fingerprint
from ray_distil.store.superseded import differences

NOT_SHOWN = ("asked", "equal_texts")  # of the values


@dataclass(frozen=True)
class StageSettings:
    """`values` and `marks`: see above.

    texts: part -> what the first of its marks is a hash of. max_tokens: part -> the limit to a text. earlier: the same
    by the rules of an earlier version, whose artifacts stay valid.
    """

    values: dict[str, Any]
    marks: dict[str, tuple[str, str]] = field(default_factory=dict)
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    max_tokens: dict[str, int | None] = field(default_factory=dict)
    earlier: "StageSettings | None" = None

    def all_rules(self) -> Iterator["StageSettings"]:
        """This, and the same by the rules of each earlier version, from the newest on."""
        yield self
        if self.earlier is not None:
            yield from self.earlier.all_rules()

    @property
    def earlier_marks(self) -> dict[str, str]:
        """Part -> the first of its marks by the rules of earlier versions."""
        marks = self.earlier.marks if self.earlier is not None else {}
        return {part: texts for part, (texts, _) in marks.items()}

    @property
    def readable(self) -> dict[str, Any]:
        """The values, with what marks are hashes of in place of the marks, without secrets.

        A setting that artifacts of earlier versions lack, and that no key of the configuration sets, is left out: by it
        they are not of earlier settings.
        """
        values = {key: value for key, value in self.values.items() if key not in NOT_SHOWN}
        for part, texts in self.texts.items():
            with_limit = texts | {"max_tokens": self.max_tokens[part]}
            if part:
                values[part] = {key: value for key, value in values[part].items() if key != "asked"} | with_limit
            else:
                values |= with_limit
        readable: dict[str, Any] = without_secrets(json.loads(json.dumps(values)))
        return readable

    def readable_like(self, saved: dict[str, Any], unknown: Container[str] = ()) -> dict[str, Any]:
        """`readable` by those rules, of this or an earlier version, by which it differs least from the saved settings.

        unknown: keys that are left out.
        """
        by_rules = [{k: v for k, v in rules.readable.items() if k not in unknown} for rules in self.all_rules()]
        saved = {key: value for key, value in saved.items() if key not in unknown}
        return min(by_rules, key=lambda readable: len(list(differences(saved, readable))))


def text_marks(stage: str, version: int, texts: dict[str, Any], limits: dict[str, int | None]) -> tuple[str, str]:
    """Two marks: one of all that changes the texts, one of the limits to their length. version: of the requests' code."""
    return fingerprint(stage, version, texts, []), fingerprint(stage, version, limits, [])


def of_one_generator(
    stage: str, version: int, generator: Generator, texts: dict[str, Any], values: dict[str, Any]
) -> StageSettings:
    """The settings of a stage whose texts are all by one generator."""
    marks = text_marks(stage, version, texts, generator.limits)
    return StageSettings(
        {"asked": list(marks)} | values, {"": marks}, {"": texts}, max_tokens={"": generator.sampling.max_tokens}
    )


def with_earlier(make: Callable[[bool], StageSettings]) -> StageSettings:
    """`make(by_earlier_rules)`: the settings by the present rules, or by those of earlier versions where they differ."""
    present, earlier = make(False), make(True)
    return present if earlier.values == present.values else replace(present, earlier=earlier)


def values_of(section: BaseModel, keys: Collection[str], without: Collection[str] = ()) -> dict[str, Any]:
    """The values of a section for a fingerprint: those of `keys` always, those of other keys where they are not at their
    default. `without`: keys that do not count.

    `keys` are those of the first version. A key that comes later remakes no finished artifact until somebody sets it.
    """
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in type(section).model_fields.items()
    }
    later = {name for name in set(defaults) - set(keys) if getattr(section, name) == defaults[name]}
    return section.model_dump(mode="json", exclude=later | set(without))
