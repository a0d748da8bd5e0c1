/* The explorer: a list of examples with a mark for each history length, and the one that is open. */
const MARKS = { right: "✓", wrong: "✗", lost: "▼", gained: "▲", scored: "" };
const BATCH = 200; // rows of the list that are made at once
const FOR_LABELS = {
  right: "right", wrong: "wrong", lost: "right at h = 0, wrong now", gained: "wrong at h = 0, right now",
};

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;

class Explorer {
  constructor(data, place) {
    Object.assign(this, data);
    this.place = place;
    this.shown = [];
    this.current = 0; // in `shown`
    this.h = 0;
    for (const row of this.rows) row.words = this.wordsOf(row);
    this.cutExcerpts();
    this.build();
    this.choosePair(place.dataset.start);
  }

  // -- texts

  join(places) {
    return places.map((place) => this.strings[place]).join("");
  }

  /* Pieces of a prompt, exactly: joined they are what the model read. */
  piecesOf(part, k) {
    if (part.whole) return [part.whole[k]];
    return [...part.pieces.slice(0, part.cuts[k]), ...part.tail];
  }

  isMark(piece) {
    return Object.hasOwn(this.marks, piece);
  }

  wordsOf(row) {
    const longest = this.piecesOf(row, row.at.length - 1);
    const answers = row.at.flatMap((at) => [at.answer, at.text, at.cued?.answer]);
    const places = [...longest, ...answers, ...row.references].filter((place) => place !== undefined);
    return places.map((place) => this.strings[place]).join("\n").toLowerCase();
  }

  targetText(row) {
    const places = row.whole ? [row.whole[0]] : row.tail;
    return this.join(places.filter((place) => !this.isMark(place))).trim();
  }

  /* Without the words that all targets of a pair begin with. */
  cutExcerpts() {
    this.pairs.forEach((pair, number) => {
      const rows = this.rows.filter((row) => row.pair === number);
      const texts = rows.map((row) => this.targetText(row));
      let common = texts.length > 1 ? texts[0].length : 0;
      for (const text of texts) {
        while (!text.startsWith(texts[0].slice(0, common))) common -= 1;
      }
      const cut = texts[0]?.slice(0, common).search(/\S+$/) ?? 0;
      const start = cut < 0 ? common : cut;
      rows.forEach((row, k) => {
        row.excerpt = texts[k].slice(start, start + 160).replaceAll(/\s+/g, " ");
      });
    });
  }

  // -- filters and list

  build() {
    const option = (value, text) => element("option", { value }, text);
    const pairs = this.pairs.map((pair, k) => option(k, `${pair.name} (n = ${pair.n})`));
    this.pair = element("select", { name: "pair" }, ...pairs, option("", "all pairs"));
    this.flip = element("input", { type: "checkbox", name: "flipped" });
    this.reference = element("select", { name: "reference" });
    this.seed = element("select", { name: "seed" });
    this.search = element("input", { type: "search", name: "search", placeholder: "words in prompt or answer" });
    this.count = element("output", { "aria-live": "polite" });
    const labelled = (text, control) => element("label", {}, text, control);
    this.referenceLabel = labelled("Reference ", this.reference);
    this.seedLabel = labelled("Seed ", this.seed);
    const form = element("form", { class: "filters screen" }, labelled("Pair ", this.pair),
      element("label", {}, this.flip, "flipped only"), this.referenceLabel, this.seedLabel,
      labelled("Find ", this.search), this.count);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target === this.pair) this.choosePair(this.pair.value);
      else this.fill();
    });
    this.flips = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Flips" });
    this.list = element("div", { class: "scroll list" });
    this.list.addEventListener("keydown", (event) => this.keyInList(event));
    this.list.addEventListener("scroll", () => {
      const below = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight;
      if (below < 400) this.fillTo(this.list.querySelector("tbody").rows.length + 1);
    });
    this.open = element("div", { class: "open", hidden: true, role: "region", "aria-label": "Open example" });
    this.open.addEventListener("keydown", (event) => this.keyInOpen(event));
    this.place.replaceChildren(form, this.flips, this.key(), this.list, this.open);
    for (const link of document.querySelectorAll("a[data-pair]")) {
      link.addEventListener("click", () => {
        this.flip.checked = true;
        this.choosePair(link.dataset.pair);
      });
    }
  }

  key() {
    const entry = (name, text) => element("span", {}, this.mark(name, MARKS[name]), ` ${text}`);
    return element("p", { class: "key" }, entry("right", "right"), entry("wrong", "wrong"),
      entry("lost", `flipped down: right at h = 0 and wrong now, or a score lower by ${this.threshold} or more`),
      entry("gained", `flipped up: wrong at h = 0 and right now, or higher by ${this.threshold} or more`),
      element("span", {}, element("kbd", {}, "↑"), " ", element("kbd", {}, "↓"), " or ", element("kbd", {}, "j"),
        " ", element("kbd", {}, "k"), " move, ", element("kbd", {}, "Enter"), " opens, ",
        element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " change h, ", element("kbd", {}, "Esc"), " closes"));
  }

  mark(name, text, spoken = null) {
    const made = element("span", { class: `mark ${name}` }, text);
    if (spoken) made.append(element("span", { class: "unseen" }, ` ${spoken}`));
    return made;
  }

  /* The mark of one history length: a sign for right and wrong, a number for a score. */
  stateOf(row, h) {
    const { state, score, change } = row.at[h];
    if (!this.pairs[row.pair].graded) return this.mark(state, MARKS[state], FOR_LABELS[state]);
    const moved = state === "scored" ? null : change < 0 ? "fell" : "rose";
    return this.mark(state, `${MARKS[state]}${score.toFixed(3)}`, moved && `${moved} by ${Math.abs(change).toFixed(3)}`);
  }

  choosePair(value) {
    this.pair.value = value;
    const chosen = this.rows.filter((row) => value === "" || row.pair === Number(value));
    const labels = chosen.filter((row) => row.labelled).map((row) => this.strings[row.references[0]]);
    this.offer(this.reference, [...new Set(labels)].sort());
    this.offer(this.seed, [...new Set(chosen.map((row) => row.seed))].sort((a, b) => a - b));
    this.countFlips(this.pairs[value === "" ? -1 : Number(value)]);
    this.fill();
  }

  /* Values to filter by; with fewer than two there is nothing to choose. */
  offer(select, values) {
    select.replaceChildren(element("option", { value: "" }, "all"),
      ...values.map((value) => element("option", { value }, String(value))));
    select.closest("label").hidden = values.length < 2;
  }

  countFlips(pair) {
    this.flips.hidden = !pair;
    if (!pair) return;
    const line = (name, text, counts) => element("tr", {}, element("th", { scope: "row" }, this.mark(name, MARKS[name]), ` ${text}`),
      ...counts.map((count) => element("td", { class: "number" }, String(count))));
    const heads = pair.lost.map((_, h) => element("th", { class: "number" }, `h = ${h}`));
    this.flips.replaceChildren(element("table", { class: "data flips" },
      element("thead", {}, element("tr", {}, element("th", {}, `Examples flipped, of all ${pair.n}`), ...heads)),
      element("tbody", {}, line("lost", "down", pair.lost), line("gained", "up", pair.gained))));
  }

  wanted(row) {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const reference = this.reference.value;
    return (this.pair.value === "" || row.pair === Number(this.pair.value)) &&
      (!this.flip.checked || row.at.some(({ state }) => state === "lost" || state === "gained")) &&
      (reference === "" || (row.labelled && this.strings[row.references[0]] === reference)) &&
      (this.seed.value === "" || row.seed === Number(this.seed.value)) &&
      words.every((word) => row.words.includes(word));
  }

  fill() {
    this.close(false);
    this.shown = this.rows.filter((row) => this.wanted(row));
    this.current = 0;
    const every = this.pair.value === "";
    const lengths = Math.max(0, ...this.shown.map((row) => row.at.length));
    const several = !this.seedLabel.hidden;
    const heads = ["Target", ...(several ? ["Seed"] : []), ...(every ? ["Pair"] : []), "Reference"];
    const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)),
      element("th", { scope: "col", class: "clip long" }, "Prompt of the target"),
      ...Array.from({ length: lengths }, (_, h) => element("th", { scope: "col", class: "state" }, `h = ${h}`)));
    const body = element("tbody");
    this.columns = { every, several, lengths };
    this.list.replaceChildren(element("table", { class: "data", role: "grid", "aria-label": "Examples" },
      element("thead", {}, head), body));
    this.list.scrollTop = 0;
    const { length } = this.shown;
    this.count.textContent = `${length} of ${this.rows.length} examples on this page`;
    this.fillTo(BATCH);
    if (!length) body.append(element("tr", {}, element("td", { colspan: 20 }, "No example is like that.")));
  }

  /* Rows are made a batch at a time, when they are scrolled or moved to. */
  fillTo(count) {
    const body = this.list.querySelector("tbody");
    const start = body.rows.length;
    if (count <= start) return;
    const more = this.shown.slice(start, Math.max(count, start + BATCH));
    body.append(...more.map((row, k) => this.line(row, start + k, this.columns)));
  }

  line(row, k, { every, several, lengths }) {
    const reference = this.strings[row.references[0]];
    const cells = Array.from({ length: lengths }, (_, h) =>
      element("td", { class: "state" }, row.at[h] ? this.stateOf(row, h) : ""));
    const made = element("tr", { tabindex: k ? -1 : 0, "aria-selected": "false" },
      element("td", {}, `row ${row.target}`), several ? element("td", {}, String(row.seed)) : null,
      every ? element("td", {}, this.pairs[row.pair].name) : null,
      element("td", { class: "clip" }, reference), element("td", { class: "clip long" }, row.excerpt), ...cells);
    made.addEventListener("click", () => this.openFirst(k));
    return made;
  }

  lineAt(k) {
    return this.list.querySelector("tbody").rows[k];
  }

  /* Moves to a row of the list; the keyboard reaches one row of it, the others by arrows. */
  moveTo(k, focus = true) {
    if (!this.shown.length) return;
    this.lineAt(this.current).tabIndex = -1;
    this.current = Math.min(Math.max(k, 0), this.shown.length - 1);
    this.fillTo(this.current + 1);
    const line = this.lineAt(this.current);
    line.tabIndex = 0;
    if (focus) line.focus();
    line.scrollIntoView({ block: "nearest" });
  }

  keyInList(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const moves = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (event.key in moves) this.moveTo(this.current + moves[event.key]);
    else if (event.key === "Enter" || event.key === " ") this.openFirst(this.current);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
  }

  // -- the open example

  /* Opens a row at the first history that flips it, or else at the longest. */
  openFirst(k) {
    if (!this.shown.length) return;
    const { at } = this.shown[k];
    const flip = at.findIndex(({ state }) => state === "lost" || state === "gained");
    this.h = flip < 0 ? at.length - 1 : flip;
    this.openRow(k);
  }

  openRow(k, focus = true) {
    if (this.openAt !== undefined) this.lineAt(this.openAt).setAttribute("aria-selected", "false");
    this.moveTo(k, false);
    this.openAt = this.current;
    this.lineAt(this.openAt).setAttribute("aria-selected", "true");
    const row = this.shown[this.openAt];
    this.h = Math.min(this.h, row.at.length - 1);
    this.draw(row);
    if (focus) {
      this.open.querySelector("h3").focus({ preventScroll: true });
      this.open.scrollIntoView({ block: "nearest" });
    }
  }

  close(focus = true) {
    const was = this.openAt;
    this.openAt = undefined;
    this.open.hidden = true;
    if (was === undefined || !focus) return;
    this.lineAt(was).setAttribute("aria-selected", "false");
    this.moveTo(was);
  }

  keyInOpen(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input")) return;
    const { length } = this.shown[this.openAt].at;
    const moves = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key in moves) this.chooseH(Math.min(Math.max(this.h + moves[event.key], 0), length - 1));
    else if (event.key === "j") this.openRow(this.openAt + 1);
    else if (event.key === "k") this.openRow(this.openAt - 1);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
  }

  chooseH(h) {
    this.h = h;
    this.draw(this.shown[this.openAt]);
    this.open.querySelector("h3").focus({ preventScroll: true });
  }

  draw(row) {
    const button = (text, action, unable = false) => {
      const made = element("button", { type: "button", disabled: unable }, text);
      made.addEventListener("click", action);
      return made;
    };
    const seed = this.columns.several ? `, seed ${row.seed}` : "";
    const head = element("div", { class: "open-head" },
      element("h3", { tabindex: -1 }, `${this.pairs[row.pair].name}: row ${row.target}${seed}`),
      button("Previous", () => this.openRow(this.openAt - 1), this.openAt === 0),
      button("Next", () => this.openRow(this.openAt + 1), this.openAt === this.shown.length - 1),
      button("Close", () => this.close()));
    const references = row.references.map((place) => this.strings[place]).join(" | ");
    const text = element("p", {}, element("span", { class: "quiet" },
      row.references.length > 1 ? "References: " : "Reference: "), references);
    const answers = this.answers(row);
    this.open.hidden = false;
    this.open.replaceChildren(head, text, answers, this.conversation(row));
    const chosen = answers.querySelector("[aria-current]");
    answers.scrollLeft = chosen.offsetLeft + chosen.offsetWidth - answers.clientWidth;
  }

  answers(row) {
    const pair = this.pairs[row.pair];
    const most = Math.max(...row.at.flatMap(({ logprobs }) => Object.values(logprobs ?? {}).map(Math.exp)));
    const heads = row.at.map((_, h) => {
      const choose = element("button", { type: "button" }, `h = ${h}`);
      choose.addEventListener("click", () => this.chooseH(h));
      return element("th", { scope: "col", "aria-current": h === this.h ? "true" : null }, choose);
    });
    const body = element("tbody");
    const add = (title, cell) => {
      const cells = row.at.map((at, h) => cell(at, h));
      if (cells.every((found) => found === null)) return;
      const line = cells.map((found, h) => element("td", { class: h === this.h ? "chosen" : null }, found ?? "–"));
      body.append(element("tr", {}, element("th", { scope: "row" }, title), ...line));
    };
    add("Answer", (at) => element("span", { class: "text" }, this.strings[at.answer] || "(empty)"));
    add("Text", (at) => at.text === undefined ? null : element("span", { class: "text" }, this.strings[at.text] || "(empty)"));
    add(pair.graded ? pair.metric : "Right?", (at, h) => this.verdict(row, h));
    add("Format", (at) => at.failed ? "failed: nothing to score" : null);
    add("With the cue", (at) => at.cued ? `${this.strings[at.cued.answer] || "(empty)"} (score ${at.cued.score.toFixed(3)})` : null);
    if (row.labelled) {
      const title = `P(label), log P in nats; bars end at ${(100 * most).toPrecision(2)} %`;
      add(title, (at) => this.bars(at.logprobs, most, this.strings[row.references[0]]));
    }
    add(`Decided at block${pair.blocks ? ` (of ${pair.blocks})` : ""}`, (at) => at.layer === undefined ? null : at.layer === null ? "none" : String(at.layer));
    add("Likeliest next tokens", (at) => at.top5.map((place) => JSON.stringify(this.strings[place])).join("  "));
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Answers" },
      element("table", { class: "data answers" }, element("thead", {}, element("tr", {}, element("th", {}, "History (turns)"), ...heads)), body));
  }

  verdict(row, h) {
    const { state, change } = row.at[h];
    const made = element("span", {}, this.stateOf(row, h));
    if (this.pairs[row.pair].graded) made.append(h ? ` ${signed(change)} against h = 0` : "");
    else made.append(` ${FOR_LABELS[state]}`);
    return made;
  }

  /* A bar per label: exp(log P) as it is, so that bars of one prompt need not add up to 1. */
  bars(logprobs, most, reference) {
    const made = element("div");
    for (const [label, logprob] of Object.entries(logprobs ?? {})) {
      const p = Math.exp(logprob);
      const fill = element("i");
      fill.style.width = `${(100 * p) / (most || 1)}%`;
      made.append(element("div", { class: `bar${label === reference ? " reference" : ""}` },
        element("span", { class: "label" }, label),
        element("span", { class: "number" }, `${(100 * p).toPrecision(3)} %`),
        element("span", { class: "number" }, logprob.toFixed(3).replace("-", "−")),
        element("span", { class: "track" }, fill)));
    }
    return made;
  }

  // -- the conversation

  conversation(row) {
    const whole = element("input", { type: "checkbox", checked: this.exact });
    whole.addEventListener("change", () => {
      this.exact = whole.checked;
      place.replaceChildren(...this.prompt(row));
    });
    const place = element("div");
    place.append(...this.prompt(row));
    const turns = this.h === 1 ? "1 turn" : `${this.h} turns`;
    return element("section", { class: "conversation" }, element("h3", {}, `What the model read at h = ${this.h} (${turns} of history)`),
      element("label", { class: "screen" }, whole, " exact text, with the marks of the template"), place);
  }

  prompt(row) {
    const pieces = this.piecesOf(row, this.h);
    if (this.exact || row.whole) return [element("pre", { class: "exact" }, this.join(pieces)), ...this.cue(row)];
    return [...this.turns(row, pieces), ...this.cue(row)];
  }

  /* The prompt once more with the cue, where the run has one. */
  cue(row) {
    if (!row.cued || this.h === 0) return [];
    return [element("details", {}, element("summary", {}, "The prompt with the cue"),
      element("pre", { class: "exact" }, this.join(this.piecesOf(row.cued, this.h - 1))))];
  }

  /* A block per speaker; the pieces are those of the exact text, in its order. */
  turns(row, pieces) {
    const blocks = [];
    const marked = pieces.some((piece) => this.isMark(piece));
    let who = "";
    pieces.forEach((piece, k) => {
      if (this.isMark(piece)) {
        who = this.marks[piece] || who;
        if (this.marks[piece]) blocks.push({ who, text: "" });
        return;
      }
      if (!marked) blocks.push({ who: k >= row.cuts[this.h] ? "target" : "history", text: "" });
      if (!blocks.length) blocks.push({ who, text: "" });
      blocks.at(-1).text += this.strings[piece];
    });
    const users = blocks.filter((block) => block.who === "user").length;
    const known = users === this.h + 1;
    let turn = 0;
    return blocks.map((block, k) => {
      if (block.who === "user") turn += 1;
      const target = known ? turn > this.h : k === blocks.length - 1;
      return this.block(row, block, known ? turn : 0, target, k === blocks.length - 1);
    });
  }

  block(row, { who, text }, turn, target, last) {
    const [role, index] = row.history[turn - 1] ?? [];
    const source = target ? `target, row ${row.target}` : role ? `turn ${turn}, ${role}, row ${index}` : "";
    const answers = last && who === "assistant";
    const title = [who || "text", source, answers ? "the answer" : ""].filter(Boolean).join(" · ");
    const answer = answers ? this.strings[row.at[this.h].answer] : text.trim();
    return element("div", { class: `turn${target ? " target" : ""}` }, element("h4", {}, title),
      element("pre", {}, answer));
  }
}

const packed = document.getElementById("data").textContent;
const placeOfExplorer = document.getElementById("explorer");
unpack(packed).then(
  (data) => new Explorer(data, placeOfExplorer),
  (error) => placeOfExplorer.append(`This browser cannot unpack the examples (${error.message}).`),
);
