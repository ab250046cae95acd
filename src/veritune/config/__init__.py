"""The recipe: one strict, typed description of a whole run.

Every field is declared once, here; the YAML keys, ``--set`` paths, JSON Schema and help
follow from it.  Unknown keys are refused, nothing is coerced silently.
"""

from veritune.config.data import (
    CleanSection,
    CodeSection,
    ColumnsSection,
    ContaminationSection,
    DataSection,
    DuplicatesSection,
    SplitSection,
)
from veritune.config.evaluation import (
    EvaluateSection,
    FewShotSection,
    ForgettingSection,
    MetricName,
    SamplesSection,
    SystemName,
)
from veritune.config.model import BUNDLED_MODEL, ModelSection, PromptSection
from veritune.config.recipe import Recipe
from veritune.config.section import Section, SizeOf
from veritune.config.sweep import HalvingSection, RangeSection, SweepSearchSection
from veritune.config.training import LoraSection, TrainSection

__all__ = [
    "BUNDLED_MODEL",
    "CleanSection",
    "CodeSection",
    "ColumnsSection",
    "ContaminationSection",
    "DataSection",
    "DuplicatesSection",
    "EvaluateSection",
    "FewShotSection",
    "ForgettingSection",
    "HalvingSection",
    "LoraSection",
    "MetricName",
    "ModelSection",
    "PromptSection",
    "RangeSection",
    "Recipe",
    "SamplesSection",
    "Section",
    "SizeOf",
    "SplitSection",
    "SweepSearchSection",
    "SystemName",
    "TrainSection",
]
