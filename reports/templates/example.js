/* One example at one history length, named by its place in the pair's: answers side by side, and the conversation the model read. */
class Example {
  constructor(examples, row, at) {
    Object.assign(this, { examples, row, at, pair: examples.pairs[row.pair] });
    this.h = this.pair.lengths[at];
  }

  text(place) {
    return this.examples.strings[place];
  }

  /* A text of the model's, which may be empty. */
  said(place) {
    return element("span", { class: "text" }, this.text(place) || "(empty)");
  }

  references() {
    const title = this.row.references.length > 1 ? "References: " : "Reference: ";
    const texts = this.row.references.map((place) => this.text(place)).join(" | ");
    return element("p", {}, element("span", { class: "quiet" }, title), texts);
  }

  // -- answers

  answers(choose) {
    const heads = this.pair.lengths.map((h, place) => {
      const button = element("button", { type: "button" }, `h = ${h}`);
      button.addEventListener("click", () => choose(place));
      return element("th", { scope: "col", "aria-current": place === this.at ? "true" : null }, button);
    });
    const head = element("tr", {}, element("th", {}, "History (turns)"), ...heads);
    const table = element("table", { class: "data answers" }, element("thead", {}, head));
    table.append(element("tbody", {}, ...this.lines()));
    return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Answers" }, table);
  }

  lines() {
    const decided = element("span", {}, term("decision_layer", "Decision layer"),
      this.pair.blocks ? ` (of ${this.pair.blocks} blocks)` : "");
    const sought = this.row.labelled ? "single label" : "number";
    const tokens = (at) => at.top5.map((place) => JSON.stringify(this.text(place))).join("  ");
    return [
      this.line("Answer", (at) => this.said(at.answer)),
      this.line("Text", (at) => (at.text === undefined ? null : this.said(at.text))),
      this.line(this.pair.graded ? this.pair.metric : "Right?", (at, place) => this.verdict(place)),
      this.line("Format", (at) => (at.failed ? `failed: no ${sought} in the text` : null)),
      this.line(term("intrusion", "Intruded"), (at, place) => (place && at.intruded ? "answers the previous task" : null)),
      this.line("With the cue", (at) => (at.cued ? this.withCue(at.cued) : null)),
      this.row.labelled ? this.probabilities() : null,
      this.line(decided, (at) => (at.layer === undefined ? null : String(at.layer ?? "none"))),
      this.line("Most likely next tokens", tokens),
    ].filter(Boolean);
  }

  /* A row with a cell for every history length; null where no cell has anything. */
  line(title, cell) {
    const cells = this.row.at.map(cell);
    if (cells.every((found) => found === null)) return null;
    const chosen = (place) => ({ class: place === this.at ? "chosen" : null });
    return element("tr", {}, element("th", { scope: "row" }, title),
      ...cells.map((found, place) => element("td", chosen(place), found ?? "–")));
  }

  verdict(place) {
    const { state, change } = this.row.at[place];
    const made = element("span", {}, this.examples.stateOf(this.row, place));
    if (!this.pair.graded) made.append(` ${FOR_LABELS[state]}`);
    else if (place) made.append(` ${signed(change)} against h = 0`);
    return made;
  }

  withCue(cued) {
    return element("span", {}, this.said(cued.answer), ` (score ${cued.score.toFixed(3)})`);
  }

  /* A bar per label: exp(log P) as it is, so that bars of one prompt need not add up to 1. */
  probabilities() {
    const every = this.row.at.flatMap(({ logprobs }) => Object.values(logprobs).map(Math.exp));
    const most = Math.max(...every) || 1;
    const title = `P(label) and log P (nats); a full bar is ${(100 * most).toPrecision(2)} %`;
    return this.line(title, ({ logprobs }) => element("div", {},
      ...Object.entries(logprobs).map(([label, logprob]) => this.bar(label, logprob, most))));
  }

  bar(label, logprob, most) {
    const p = Math.exp(logprob);
    const fill = element("i");
    fill.style.width = `${(100 * p) / most}%`;
    const right = label === this.text(this.row.references[0]);
    return element("div", { class: right ? "bar reference" : "bar" },
      element("span", { class: "label" }, label),
      element("span", { class: "number" }, `${(100 * p).toPrecision(3)} %`),
      element("span", { class: "number" }, logprob.toFixed(3).replace("-", "−")),
      element("span", { class: "track" }, fill));
  }

  // -- the conversation

  conversation(exact) {
    const shown = exact ? [this.exactly(this.row.prompts[this.at])] : this.messages();
    return [...shown, ...this.cue()];
  }

  /* The text that the model read, to the character. */
  exactly(pieces) {
    return element("pre", { class: "exact" }, this.examples.join(pieces));
  }

  /* The prompt once more with the cue, where the run has one. */
  cue() {
    const pieces = this.row.cued[this.at - 1];
    if (!pieces) return [];
    const summary = element("summary", {}, "The prompt with the cue");
    return [element("details", {}, summary, this.exactly(pieces))];
  }

  /* The first h turns, the target's prompt, and the answer to it. A turn begins with its user message, and may have no answer. */
  messages() {
    const { messages, target, at } = this.row;
    const turns = [];
    let turn = 0;
    for (const [role, place] of messages.slice(0, -1)) {
      turn += role === "user";
      if (turn > this.h) break;
      const [task, index] = this.row.history[turn - 1];
      turns.push(this.message(`${role} · turn ${turn}, ${task}, row ${index}`, place));
    }
    const asked = this.message(`user · target, row ${target}`, messages.at(-1)[1], true);
    const answer = this.message("assistant · the answer", at[this.at].answer, true);
    return [...turns, asked, answer];
  }

  message(title, place, target = false) {
    return element("div", { class: target ? "turn target" : "turn" },
      element("h4", {}, title), element("pre", {}, this.text(place)));
  }
}
