"""The hub's model card, made from the run's own report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from veritune.config import BUNDLED_MODEL
from veritune.export.writers import BUNDLED_HUB_ID
from veritune.pipeline.trained import TrainedRun
from veritune.report.load import RunFiles, load_run
from veritune.report.markdown import escape, table
from veritune.report.view import View, make_view
from veritune.report.wording import mapping, metric_label

_BUNDLED_LICENCE = "apache-2.0"
_UNKNOWN = "not stated"
_FRONT = "---\n"


def write_model_card(
    folder: Path, trained: TrainedRun, record: dict[str, Any], *, licence: str | None
) -> None:
    """Write ``README.md``, and the report beside it.

    Args:
        record: the export's, for the gate's figures.
        licence: the hub's name of the licence; None takes the base model's, where it is known.
    """
    files = load_run(trained.run.path)
    view = make_view(files)
    base_licence = _base_licence(trained)
    front = _front_matter(files, trained, licence or base_licence)
    body = _without_paths(_body(files, view, trained, record, base_licence), files, trained)
    text = f"{_FRONT}{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}{_FRONT}\n{body}"
    (folder / "README.md").write_text(text, encoding="utf-8", errors="replace", newline="\n")
    for name in ("report.md", "report.html"):
        if (trained.run.path / name).is_file():
            shutil.copyfile(trained.run.path / name, folder / name)


def _front_matter(files: RunFiles, trained: TrainedRun, licence: str | None) -> dict[str, Any]:
    seq2seq = trained.encoder.kind == "seq2seq"
    front: dict[str, Any] = {
        "license": licence or "other",
        **({} if licence else {"license_name": _UNKNOWN.replace(" ", "-")}),
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation" if seq2seq else "text-generation",
        "tags": ["code", "python", "lora", "peft", "veritune"],
    }
    if base := _hub_id(trained):
        front |= {"base_model": base, "base_model_relation": "finetune"}
    origin = mapping(files.card.get("origin"))
    if origin.get("kind") == "hub":
        front["datasets"] = [str(origin["name"])]
    if results := _results(files):
        front["model-index"] = [{"name": files.path.resolve().name, "results": results}]
    return front


def _data_name(files: RunFiles) -> str:
    """The data's name; of a local file its own name alone, not where it lies."""
    origin = mapping(files.card.get("origin"))
    name = str(origin.get("name") or "the run's own data")
    return name if origin.get("kind") == "hub" else Path(name).name


def _without_paths(body: str, files: RunFiles, trained: TrainedRun) -> str:
    """The text without the folders of this machine, which are nobody's business."""
    reference, origin = trained.loaded.reference, mapping(files.card.get("origin"))
    local = [origin.get("name")] if origin.get("kind") != "hub" else []
    if reference.kind != "hub":
        local += [reference.name, reference.location]
    for name in local:
        if isinstance(name, str) and "/" in name:
            for form in (name, escape(name, len(name) + 1)):
                body = body.replace(form, Path(name).name)
    return body


def _results(files: RunFiles) -> list[dict[str, Any]]:
    """The adapted model's values on the test questions, as the hub's leaderboards read them."""
    if files.conclusion is None:
        return []
    values = {row.metric: row.value for row in files.conclusion.comparisons}
    origin = mapping(files.card.get("origin"))
    return [
        {
            "task": {"type": "text-generation", "name": "Python code from a question"},
            "dataset": {
                "type": str(origin.get("name") if origin.get("kind") == "hub" else "custom"),
                "name": _data_name(files),
                "split": "test (held out by Veritune)",
            },
            "metrics": [
                {
                    "type": metric,
                    "name": f"{metric_label(metric)} (0–100)",
                    "value": round(value, 2),
                }
                for metric, value in values.items()
            ],
        }
    ]


def _body(
    files: RunFiles,
    view: View,
    trained: TrainedRun,
    record: dict[str, Any],
    base_licence: str | None,
) -> str:
    head = view.headline
    parts = [
        f"# {escape(head.run)}",
        escape(head.sentence, 1000),
        _use(trained),
        _data(view),
        _training(files),
        _evaluation(view),
        _gates(record),
        _limits(view),
        _licence(files, trained, base_licence),
        f"Made with Veritune {escape(record['veritune_version'])}; the whole report is in"
        " `report.html` and `report.md`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(trained: TrainedRun) -> str:
    loaded = trained.loaded
    kind = "Seq2SeqLM" if trained.encoder.kind == "seq2seq" else "CausalLM"
    asked = (
        'inputs = tokenizer.apply_chat_template([{"role": "user", "content": question}],\n'
        '    add_generation_prompt=True, return_tensors="pt", return_dict=True)'
        if trained.encoder.format.chat
        else 'inputs = tokenizer(question, return_tensors="pt")'
    )
    return (
        "## Use\n\n"
        f"{escape(loaded.description, 300)} with a LoRA adapter folded in. Questions in, Python"
        " code out. `adapter/` holds the adapter alone, for PEFT.\n\n"
        "```python\n"
        f"from transformers import AutoModelFor{kind}, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")\n'
        f'model = AutoModelFor{kind}.from_pretrained("THIS_FOLDER")\n'
        'question = "Write a function that reverses a string."\n'
        f"{asked}\n"
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=256)[0]))\n"
        "```"
    )


def _data(view: View) -> str:
    if view.data is None:
        return ""
    rows = [*view.data.origin, *view.data.counts]
    splits = table(("split", "examples", "clusters", "parse rate"), view.data.splits)
    return f"## Data\n\n{_list(rows)}\n\n{splits}"


def _training(files: RunFiles) -> str:
    summary = mapping(files.stage("train").get("summary"))
    lora, train = (mapping(files.recipe.get(name)) for name in ("lora", "train"))
    named = (
        ("lora ", lora, ("r", "alpha", "dropout", "target_modules", "use_dora", "init")),
        ("", train, ("learning_rate", "batch_size", "epochs", "max_steps", "schedule")),
        ("", summary, ("n_steps", "training_loss", "best_validation_loss", "total_flos")),
    )
    rows = [
        (f"{prefix}{name}", str(values[name]))
        for prefix, values, names in named
        for name in names
        if values.get(name) is not None
    ]
    return f"## Training\n\n{_list(rows)}"


def _evaluation(view: View) -> str:
    evidence = view.evidence
    if evidence is None:
        return "## Evaluation\n\nThis model has not been evaluated."
    against = table(
        ("adapted minus", "difference", "95 % interval", "p", "verdict"),
        (
            (row.against, row.delta, row.interval, row.p_value, row.verdict)
            for row in evidence.by_system.rows
        ),
    )
    by_metric = table(
        ("metric", "difference", "95 % interval", "p, Holm", "verdict"),
        (
            (row.metric, row.delta, row.interval, row.p_holm, row.verdict)
            for row in evidence.by_metric.rows
        ),
    )
    values = table(
        ("test set", *evidence.systems), ((name, *cells) for name, cells, _ in evidence.values)
    )
    return (
        f"## Evaluation\n\nOn questions that were not trained on. {escape(evidence.primary)}, the"
        f" primary metric:\n\n{against}\n\nAgainst {escape(evidence.best)}, the best"
        f" baseline:\n\n{by_metric}\n\n{values}"
    )


def _gates(record: dict[str, Any]) -> str:
    rows = [
        (
            gate["by"],
            gate["n_prompts"],
            f"{gate['export']['same_answers']} / {gate['n_prompts']}",
            f"{gate['export']['logprob']:.2g}",
            f"{gate['base']['logprob']:.2g}",
        )
        for gate in record["gates"]
    ]
    head = ("run by", "questions", "same answers", "nats a token from the adapter", "base's")
    return f"## These files against the adapter\n\n{table(head, rows)}"


def _limits(view: View) -> str:
    notes = [
        *view.headline.warnings,
        *view.headline.notices,
        *(f"Not measured: {what} ({why})" for what, why in view.not_measured),
        "Generated code may be wrong or unsafe; run it where it can do no harm.",
        "Differences hold for questions like the test questions, and for nothing else.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {escape(note, 500)}" for note in dict.fromkeys(notes))


def _licence(files: RunFiles, trained: TrainedRun, base_licence: str | None) -> str:
    origin = mapping(files.card.get("origin"))
    rows = [
        (f"base model ({trained.loaded.reference.name})", base_licence or _UNKNOWN),
        (f"data ({origin.get('name') or 'unknown'})", str(origin.get("licence") or _UNKNOWN)),
    ]
    return (
        f"## Licence\n\n{_list(rows)}\n\nWhoever publishes this model answers for both; an"
        ' unknown licence is no permission ("not stated" means that none was found).'
    )


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {escape(name)}: {escape(value, 300)}" for name, value in rows)


def _hub_id(trained: TrainedRun) -> str | None:
    reference = trained.loaded.reference
    if reference.name == BUNDLED_MODEL:
        return BUNDLED_HUB_ID
    return reference.name if reference.kind == "hub" else None


def _base_licence(trained: TrainedRun) -> str | None:
    """The licence in the front matter of the base's own card, where there is one."""
    reference = trained.loaded.reference
    if reference.name == BUNDLED_MODEL:
        return _BUNDLED_LICENCE
    if reference.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            reference.location, "README.md", revision=reference.revision or "main"
        )
        card = Path(found) if isinstance(found, str) else None
    else:
        card = Path(reference.location) / "README.md"
    if card is None or not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    _, opening, rest = text.partition(_FRONT)
    front, closing, _ = rest.partition(f"\n{_FRONT}")
    if not opening or not closing:
        return None
    try:
        content = yaml.safe_load(front)
    except yaml.YAMLError:
        return None
    named = content.get("license") if isinstance(content, dict) else None
    return named if isinstance(named, str) else None
