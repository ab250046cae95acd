"""Settings of the data: source, cleaning, duplicates, contamination and split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from veritune.config.section import Section, SizeOf


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


class CodeSection(Section):
    """What of a code base becomes examples; counts for ``code:`` sources only."""

    include_private: bool = Field(
        False, description="functions and classes whose name begins with an underscore"
    )
    include_trivial: bool = Field(
        False, description="getters, one-line delegations, functions under min_statements"
    )
    min_statements: int = Field(
        3,
        ge=1,
        description="statements, nested ones too, under which a function is trivial; one whose"
        " tests are verified never is",
    )
    include_tests: bool = Field(False, description="functions of test files, as examples")
    include_generated: bool = Field(False, description="files that a tool has written")
    include_vendored: bool = Field(False, description="copies of other people's packages")
    unit_tests: bool | None = Field(
        None,
        description="run the unit tests that call a function, and keep those that tell; null: yes,"
        " but not the standard library's, which take minutes and are not installed everywhere",
    )
    tracked_only: bool = Field(True, description="of a git checkout, only the files that git knows")
    keep_files_together: bool = Field(
        True, description="all functions of a file into one split (method: clusters)"
    )


class DataSection(Section):
    """Where the question/answer pairs come from and how they are prepared."""

    source: str = Field(
        "code:stdlib",
        min_length=1,
        description="hub data set id, a .json/.jsonl/.csv (also .gz) or .parquet file,"
        " code:stdlib, or code:PATH (a folder, a file, a wheel, a git checkout, there also"
        " PATH@REVISION)",
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
    revision: str | None = Field(
        None,
        description="revision of the hub's data set or of a git checkout; ignored for other paths",
    )
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
    code: CodeSection = CodeSection()
    clean: CleanSection = CleanSection()
    duplicates: DuplicatesSection = DuplicatesSection()
    contamination: ContaminationSection = ContaminationSection()
    split: SplitSection = SplitSection()
