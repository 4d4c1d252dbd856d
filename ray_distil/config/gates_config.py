"""The keys of answers and gates: a judge of the user's own, a switch for each gate, and gates of the user's own."""

from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from ray_distil.config.section import ImportPath, Section
from ray_distil.judge.agreement import JUDGE
from ray_distil.judge.gates import DESCRIPTIONS
from ray_distil.runtime.user_code import current_mark


class AnswersConfig(Section):
    """How a stated answer is compared with a reference, for training and in evaluations."""

    judge: ImportPath | None = Field(
        None,
        description="a function of your own that compares, as `my_judges:same`: (answer, reference, problem) -> true, "
        "false or null (docs/doors.md)",
    )

    @property
    def marks(self) -> dict[str, str]:
        """The judge with a digest of its source, for fingerprints; {} without one."""
        return {} if self.judge is None else {"judge": current_mark(self.judge, JUDGE)}


class Gates(Section):
    """What a configuration says of gates, beside the switches that `GatesConfig` adds."""

    if TYPE_CHECKING:  # a field of GatesConfig, behind its switches
        custom: list[ImportPath] = []

    @property
    def enabled(self) -> list[str]:
        """The names of the gates that are on, in their order, and the import paths of those of the user's own."""
        return [*self._switched_on, *self.custom]

    @property
    def marks(self) -> list[str]:
        """`enabled` for fingerprints: gates of the user's own with a digest of their source."""
        return [*self._switched_on, *(current_mark(path, "gates.custom") for path in self.custom)]

    @property
    def _switched_on(self) -> list[str]:
        return [name for name, is_on in self.model_dump(exclude={"custom"}).items() if is_on]


_SWITCHES: dict[str, Any] = {
    name: (bool, Field(True, description=description)) for name, description in DESCRIPTIONS.items()
}
GatesConfig = create_model(
    "GatesConfig",
    __base__=Gates,
    __doc__="Which gates reject a row, in this order.",
    __module__=__name__,
    **_SWITCHES,
    custom=(
        list[ImportPath],
        Field(
            [], description="gates of your own, as `my_gates:no_pens`: functions row -> reason or null (docs/doors.md)"
        ),
    ),
)
