// One answer: its text as it grows, what is known of it, and its program run.

const OUTCOMES = {
  pass: "It ran to its end",
  fail: "It failed",
  timeout: "It did not end in time",
  memory: "It wanted too much memory",
  output: "It wrote too much",
  crash: "It crashed",
  needs_input: "It asks for input",
  missing_module: "It needs a module that is not there",
  needs_resource: "It needs something that the sandbox does not give",
  infra: "The sandbox failed",
};

export class Panel {
  constructor(root, side, run) {
    this.root = root;
    this.side = side;
    this.letter = side === "left" ? "answer A" : "answer B";
    this.runAnswer = run;
    root.append(document.getElementById("answer-template").content.cloneNode(true));
    this.part = (css) => root.querySelector(css);
    this.part(".name").id = `${side}-name`;
    this.part(".text").setAttribute("aria-label", `Text of ${this.letter}`);
    this.part(".printed").setAttribute("aria-label", `Output of ${this.letter}`);
    this.part(".stdin textarea").setAttribute("aria-label", `Input for the program of ${this.letter}`);
    this.part(".copy").addEventListener("click", () => this.copy());
    this.part(".run").addEventListener("click", () => this.run());
    this.canRun = false;
  }

  /** What the answer is called when it is spoken of. */
  get title() {
    return this.name ?? capital(this.letter);
  }

  /** Forget the last answer. */
  begin() {
    this.text = "";
    this.name = null;
    this.ended = false;
    this.verdict = "has not ended";
    this.part(".text").textContent = "";
    this.part(".cost").textContent = "";
    for (const css of [".badge", ".ran", ".stdin", ".run"]) this.part(css).hidden = true;
    this.part(".copy").disabled = true;
    this.call(null);
    this.root.classList.add("is-streaming");
  }

  /** Say whose answer it is; null while that is hidden. */
  call(name) {
    this.name = name;
    this.part(".name").textContent = name ?? capital(this.letter);
    if (name === null) delete this.root.dataset.who;
    else this.root.dataset.who = name === "base" ? "base" : "adapted";
  }

  /** A little more text. */
  add(text) {
    this.text += text;
    const shown = this.part(".text");
    const atEnd = shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 8;
    shown.append(document.createTextNode(text));
    if (atEnd) shown.scrollTop = shown.scrollHeight;
  }

  /** The answer is whole. */
  end({ finish_reason: reason, n_tokens: count, seconds, fault }) {
    this.ended = true;
    const badge = this.part(".badge");
    badge.hidden = false;
    badge.classList.toggle("is-bad", fault !== null);
    badge.textContent = fault === null ? "✓ parses" : fault === "empty" ? "✗ empty" : "✗ does not parse";
    badge.title = fault ?? "Valid Python";
    this.verdict = fault === null ? "parses" : fault === "empty" ? "is empty" : `does not parse (${fault})`;
    const cut = reason === "length" ? ", cut off" : "";
    this.part(".cost").textContent = `${count} tokens${cut}, ${seconds.toFixed(1)} s`;
    this.part(".copy").disabled = false;
    this.part(".run").hidden = this.part(".stdin").hidden = fault === "empty" || !this.canRun;
    this.settle();
  }

  /** Nothing more will come. */
  settle() {
    this.root.classList.remove("is-streaming");
    this.part(".copy").disabled = !this.text;
  }

  /** Show the text with the parts marked that stand only here. */
  mark(parts) {
    const nodes = parts.map(([text, differs]) => {
      if (!differs) return document.createTextNode(text);
      const mark = document.createElement("mark");
      mark.textContent = text;
      return mark;
    });
    this.part(".text").replaceChildren(...nodes);
  }

  /** Whether programs can be run here at all. */
  allowRunning(available, missing) {
    this.canRun = available;
    this.part(".run").title = available ? "Runs in the sandbox" : missing;
    if (this.ended && available) this.part(".run").hidden = this.part(".stdin").hidden = false;
  }

  async copy() {
    const button = this.part(".copy");
    try {
      await navigator.clipboard.writeText(this.text);
      button.textContent = "Copied";
    } catch {
      // No permission: select it, so that the keyboard can copy.
      getSelection().selectAllChildren(this.part(".text"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  async run() {
    const button = this.part(".run");
    const outcome = this.part(".outcome");
    button.disabled = true;
    button.textContent = "Running …";
    this.part(".printed").textContent = "";
    outcome.className = "outcome";
    outcome.textContent = "Running in the sandbox …";
    this.part(".ran").hidden = false;
    try {
      const ran = await this.runAnswer(this.side, this.part(".stdin textarea").value);
      const detail = ran.detail ? ` (${ran.detail})` : "";
      outcome.textContent = `${OUTCOMES[ran.outcome] ?? ran.outcome}${detail}, ${ran.seconds.toFixed(2)} s.${ran.printed ? "" : " It printed nothing."}`;
      outcome.classList.add(ran.outcome === "pass" ? "is-good" : "is-bad");
      this.part(".printed").textContent = ran.printed;
      if (ran.outcome === "needs_input") this.part(".stdin").open = true;
    } catch (error) {
      outcome.textContent = error.message;
      outcome.classList.add("is-bad");
    }
    button.disabled = false;
    button.textContent = "Run it";
  }
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}
