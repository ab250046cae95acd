"""The recipe: one strict, typed description of a whole run.

Every field is declared once, here; the YAML keys, ``--set`` paths, JSON Schema and help
follow from it.  Unknown keys are refused, nothing is coerced silently.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from veritune.errors import RecipeError

BUNDLED_MODEL = "bundled:smollm2-135m"

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
SizeOf = Annotated[
    int | float | None,
    Field(description="rows if a whole number, a share if below 1, null for what is left"),
]


class Section(BaseModel):
    """A group of settings; refuses unknown keys and wrong types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False
    )


class PromptSection(Section):
    """How a question becomes a prompt."""

    style: Literal["auto", "chat", "plain"] = Field(
        "auto", description="chat uses the tokenizer's chat template; auto: chat if it has one"
    )
    template: str = Field(
        "auto",
        min_length=1,
        description="text with {question} (instruction joined with input), or {instruction} and"
        " {input}; auto: the question alone, with a response marker for plain decoder models",
    )
    system: str | None = Field(
        None, description="system message for chat models; null: the template's own"
    )

    @model_validator(mode="after")
    def _mentions_instruction(self) -> PromptSection:
        if self.template != "auto" and not any(
            mark in self.template for mark in ("{question}", "{instruction}")
        ):
            raise ValueError("the template must contain {question} or {instruction}")
        return self


class ModelSection(Section):
    """The base model."""

    name_or_path: str | list[str] = Field(
        BUNDLED_MODEL,
        description="hub id, folder, .gguf file, or bundled:smollm2-135m; of a list, `run`"
        " chooses the base whose adapter is best on validation",
    )
    revision: str | None = Field(
        None, description="hub revision, best a commit hash; ignored with a notice for local paths"
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained", description="random builds the architecture without weights"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights; auto: bfloat16 where the hardware has it"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if present")
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; leave it off"
    )
    prompt: PromptSection = PromptSection()

    @property
    def name(self) -> str:
        """The one base model.

        Raises:
            RecipeError: there are several and none is chosen yet.
        """
        if isinstance(self.name_or_path, str):
            return self.name_or_path
        raise RecipeError(
            "this needs one base model, and the recipe names several to choose from",
            received=f"model.name_or_path: {self.name_or_path}",
            accepted="one name, or a run directory in which `veritune run` has chosen one",
            next_step="veritune run RECIPE, or --set model.name_or_path=NAME",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every base model named."""
        names = self.name_or_path
        return (names,) if isinstance(names, str) else tuple(names)

    @model_validator(mode="after")
    def _names_are_names(self) -> ModelSection:
        if not self.names or not all(self.names):
            raise ValueError("name_or_path must not be empty")
        if len(set(self.names)) != len(self.names):
            raise ValueError("name_or_path names a base model twice")
        if self.revision is not None and len(self.names) > 1:
            raise ValueError("revision belongs to one base model; several are named")
        return self


class ColumnsSection(Section):
    """Names of the source's columns; null means the source has none."""

    instruction: str = Field("instruction", min_length=1)
    input: str | None = "input"
    output: str = Field("output", min_length=1)
    tests: str | None = "tests"
    test_setup: str | None = "test_setup"
    entry_point: str | None = "entry_point"


class CleanSection(Section):
    """Cleaning steps, in the order they run; the data card counts what each did."""

    unfence: bool = Field(True, description="take code out of markdown fences")
    drop_language_line: bool = Field(True, description="drop a leading line that says python")
    remove_comments: bool = Field(False, description="remove comments, never inside strings")
    normalise_whitespace: bool = Field(
        True, description="line ends, trailing spaces, outer blank lines; never inside strings"
    )
    drop_empty: bool = Field(True, description="drop rows without a question or an answer")
    drop_exact_duplicates: bool = Field(True, description="keep one of identical rows")
    drop_unparseable: bool = Field(
        False, description="drop rows whose answer is not valid Python (drop non-code)"
    )


class SplitSection(Section):
    """How rows are divided."""

    method: Literal["clusters", "random", "head"] = Field(
        "clusters",
        description="clusters: whole duplicate groups, seeded; head: first rows in order;"
        " random: rows one by one (leaks duplicates; for comparison only)",
    )
    train: SizeOf = None
    validation: SizeOf = 0.1
    test: SizeOf = 0.1
    on_leak: Literal["report", "drop"] = Field(
        "report",
        description="training rows that repeat a validation or test row: report counts them in"
        " the card's leak audit; drop takes them out of training",
    )

    @model_validator(mode="after")
    def _sizes_make_sense(self) -> SplitSection:
        for name in ("train", "validation", "test"):
            size = getattr(self, name)
            if size is None:
                continue
            if size <= 0:
                raise ValueError(f"{name} must be above 0, not {size}")
            if isinstance(size, float) and size >= 1:
                raise ValueError(f"{name} as a share must be below 1, not {size}")
        shares = [s for s in (self.train, self.validation, self.test) if isinstance(s, float)]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares):g}, more than 1")
        if sum(size is None for size in (self.train, self.validation, self.test)) > 1:
            raise ValueError("only one of train, validation and test may be null")
        return self


class DuplicatesSection(Section):
    """When two rows count as near-duplicates; see docs/concepts.md, "Cluster"."""

    instruction_jaccard: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="of the questions' shingles, from which on rows belong together",
    )
    answer_jaccard: float = Field(
        0.7,
        ge=0.5,
        le=1,
        description="of the answers' shingles, from which on rows belong together",
    )
    rename_identifiers: bool = Field(
        True, description="number an answer's own names, so that renamed copies are found"
    )


class ContaminationSection(Section):
    """Rows that repeat a task of a published benchmark."""

    against: list[str] = Field(
        default_factory=list,
        description="humaneval, or files of tasks; what evaluate.benchmarks names is added",
    )
    ngram: int = Field(10, ge=5, le=50, description="words in a row shared with a task")
    edit_similarity: float = Field(
        0.7, ge=0.5, le=1, description="of a whole question or answer to a task's, by words"
    )
    drop: bool = Field(
        True, description="take such rows out of training and validation; false: only list them"
    )


class DataSection(Section):
    """Where the question/answer pairs come from and how they are prepared."""

    source: str = Field(
        "code:stdlib",
        min_length=1,
        description="hub data set id, a .json/.jsonl/.csv/.parquet file (also .gz),"
        " code:stdlib, or code:PATH",
    )
    validation_source: str | None = Field(
        None,
        min_length=1,
        description="your own validation rows, used as they are: a file or a hub id, with the"
        " hub's split after a colon (owner/name:validation)",
    )
    test_source: str | None = Field(
        None, min_length=1, description="your own test rows, likewise (owner/name:test)"
    )
    revision: str | None = Field(None, description="hub revision; ignored for local paths")
    hub_split: str = Field("train", min_length=1, description="the hub's own split to read")
    columns: ColumnsSection = ColumnsSection()
    input: Literal["join", "ignore"] = Field(
        "join", description="whether the input column becomes part of the question"
    )
    max_rows: int | None = Field(None, ge=1, description="read only this many rows")
    max_row_characters: int | None = Field(
        200_000, ge=1, description="leave out rows whose texts together are longer"
    )
    max_source_tokens: int | None = Field(None, ge=1, description="drop longer prompts")
    max_target_tokens: int | None = Field(None, ge=1, description="drop longer answers")
    max_pair_tokens: int | None = Field(
        None, ge=2, description="drop pairs whose prompt and answer together are longer"
    )
    clean: CleanSection = CleanSection()
    duplicates: DuplicatesSection = DuplicatesSection()
    contamination: ContaminationSection = ContaminationSection()
    split: SplitSection = SplitSection()


class LoraSection(Section):
    """The adapter."""

    r: int = Field(16, ge=1, le=1024, description="rank")
    alpha: float = Field(32, gt=0, description="scaling is alpha / r (alpha / sqrt(r) for rsLoRA)")
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | list[str] = Field(
        "attention",
        description="a preset (attention, mlp, all-linear) or module names",
    )
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["default", "gaussian", "pissa", "olora"] = "default"


class TrainSection(Section):
    """The optimisation."""

    learning_rate: float = Field(5e-4, gt=0)
    full_learning_rate: float | None = Field(
        None,
        gt=0,
        description="of the full_finetune system; null: learning_rate / 10, since LoRA's best"
        " rate is about ten times that of full fine-tuning (Schulman et al. 2025)",
    )
    batch_size: int = Field(8, ge=1, description="examples per forward pass")
    accumulation_steps: int = Field(1, ge=1, description="forward passes per optimizer step")
    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    padding: Literal["longest_in_batch", "longest_in_data", "max_length", "packed"] = Field(
        "longest_in_batch",
        description="packed: the examples of a batch in one row without padding (decoder models)",
    )
    eval_steps: int | None = Field(
        None, ge=1, description="validation loss every N steps; null: once an epoch"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after this many evaluations without improvement"
    )
    keep: Literal["best", "last"] = Field("best", description="by validation loss")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="save a resumable checkpoint every N steps; null: at evaluations"
    )
    log_steps: int = Field(10, ge=1)


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
        " least 60 test rows carry tests and the sandbox holds, else chrf",
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


class Recipe(Section):
    """A whole run, from raw rows to a report."""

    output_dir: str = Field("runs/default", min_length=1, description="is the run directory")
    seed: int = Field(0, ge=0)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list,
        description="training seeds, the first for the main adapter; empty: only seed."
        " The split of the data always uses seed",
    )
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    lora: LoraSection = LoraSection()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    report_to: list[str] = Field(
        default_factory=list,
        description="accelerate trackers: tensorboard, wandb, mlflow, trackio, …",
    )

    @property
    def training_seed(self) -> int:
        """The seed that trains the main adapter."""
        return self.seeds[0] if self.seeds else self.seed

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is named twice, but the same training twice is no evidence")
        return seeds
