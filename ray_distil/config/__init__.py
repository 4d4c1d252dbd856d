"""The configuration of a run: every key with type, bound and unit; the models that it names."""

from ray_distil.config.evaluation_config import EvaluatedModel
from ray_distil.config.instructions_config import TINY, InstructionsConfig
from ray_distil.config.keys import (
    TRAINED,
    DistillConfig,
    PackingConfig,
    StagesConfig,
    load,
)
from ray_distil.config.section import RECIPES
from ray_distil.config.teachers_config import TeacherConfig
from ray_distil.config.training_config import TrainingConfig

__all__ = [
    "RECIPES",
    "TINY",
    "TRAINED",
    "DistillConfig",
    "EvaluatedModel",
    "InstructionsConfig",
    "PackingConfig",
    "StagesConfig",
    "TeacherConfig",
    "TrainingConfig",
    "load",
]
