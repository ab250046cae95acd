"""Settings of what is measured, and on which systems."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from veritune.config.section import Section

MetricName = Literal[
    "pass_at_1",
    "runs_clean",
    "parse_rate",
    "exact_match",
    "ast_match",
    "chrf",
    "bleu",
    "rouge1",
    "rouge2",
    "rougeL",
]
SystemName = Literal["baseline", "few_shot", "retrieval", "adapted", "merged", "full_finetune"]
_ALL_SYSTEMS: tuple[SystemName, ...] = ("baseline", "few_shot", "retrieval", "adapted")


class FewShotSection(Section):
    """The few-shot baseline."""

    k: int = Field(3, ge=1, le=32)
    choose: Literal["fixed", "bm25"] = Field(
        "fixed", description="fixed: the same seeded training examples; bm25: the nearest ones"
    )


class ForgettingSection(Section):
    """Text away from the training data, on which base and adapted model are compared."""

    texts: list[str] | None = Field(
        None, description="your own text files; null: prose and code that come with Python"
    )
    n_chunks: int = Field(32, ge=0, description="chunks of each kind, one a document; 0: off")
    chunk_tokens: int = Field(128, ge=8, le=4096)


class SamplesSection(Section):
    """Several sampled answers a question, for pass@k."""

    n: int = Field(0, ge=0, le=200, description="answers a question with tests; 0: greedy only")
    temperature: float = Field(0.8, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)


class EvaluateSection(Section):
    """What is measured, on which systems."""

    systems: list[SystemName] = Field(default_factory=lambda: list(_ALL_SYSTEMS))
    adapters: list[str] = Field(
        default_factory=list,
        description="other PEFT adapters of the same base (run directories or adapter folders),"
        " each compared as a system of its own",
    )
    few_shot: FewShotSection = FewShotSection()
    max_new_tokens: int = Field(256, ge=1)
    batch_size: int = Field(16, ge=1)
    max_test_examples: int | None = Field(None, ge=1, description="a seeded sample of test")
    max_validation_examples: int | None = Field(
        100, ge=1, description="a seeded sample of validation, to choose the best baseline"
    )
    n_train_prompts: int | None = Field(
        None, ge=0, description="training prompts for the memorisation gap; null: as many as test"
    )
    train_prompt_choice: Literal["sample", "first"] = "sample"
    primary_metric: Literal["auto"] | MetricName = Field(
        "auto",
        description="fixed in the resolved recipe before training; auto: pass_at_1 where at"
        " least 60 test rows in 30 clusters carry tests and the sandbox holds, else chrf",
    )
    resamples: int = Field(10_000, ge=200)
    run_answers: bool = Field(
        True, description="run answers in the sandbox: pass_at_1 and runs_clean"
    )
    allow_broken_references: bool = Field(
        False, description="leave out rows whose own reference fails its tests, instead of stopping"
    )
    benchmarks: list[str] = Field(
        default_factory=list,
        description="humaneval, or .jsonl files in MBPP's format: pass_at_1 of base and adapted",
    )
    max_benchmark_tasks: int | None = Field(
        None, ge=1, description="a seeded sample of each benchmark's tasks"
    )
    samples: SamplesSection = SamplesSection()
    forgetting: ForgettingSection = ForgettingSection()
    latency_rounds: int = Field(
        5, ge=0, description="timed rounds of base, adapted and merged; 0: latency not measured"
    )
    margin: float = Field(
        2.0, ge=0, description="points that count as no loss for --require not-worse"
    )
    curve: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=list,
        description="numbers of training rows for a learning curve, such as [64, 256]",
    )

    @field_validator("curve")
    @classmethod
    def _sizes_differ(cls, sizes: list[int]) -> list[int]:
        if len(set(sizes)) != len(sizes):
            raise ValueError("a size is named twice")
        return sizes

    @model_validator(mode="after")
    def _has_two_systems(self) -> EvaluateSection:
        if len(set(self.systems)) != len(self.systems):
            raise ValueError("a system is named twice")
        if "adapted" not in self.systems or "baseline" not in self.systems:
            raise ValueError("systems must contain baseline and adapted")
        return self
