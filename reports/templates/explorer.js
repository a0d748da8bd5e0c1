/* The explorer: filters, a list of examples with a mark for each history length, and the keyboard. */
const BATCH = 200; // rows of the list that are made at once

class Explorer {
  constructor(examples, place) {
    this.examples = examples;
    this.place = place;
    this.shown = [];
    this.current = 0; // in `shown`
    this.at = 0; // the place of the history length in the pair's
    this.exact = false;
    this.build();
    this.choosePair(place.dataset.start);
  }

  // -- filters and list

  build() {
    const option = (value, text) => element("option", { value }, text);
    const pairs = this.examples.pairs.map((pair, k) => option(k, `${pair.name} (n = ${pair.n})`));
    this.pair = element("select", { name: "pair" }, ...pairs, option("", "all pairs"));
    this.flip = element("input", { type: "checkbox", name: "flipped" });
    this.intruded = element("input", { type: "checkbox", name: "intruded" });
    this.intrudedLabel = element("label", {}, this.intruded, "intruded only");
    this.reference = element("select", { name: "reference" });
    this.seed = element("select", { name: "seed" });
    this.search = element("input", { type: "search", name: "search", placeholder: "prompt or answer" });
    this.count = element("output", { "aria-live": "polite" });
    const labelled = (text, control) => element("label", {}, text, control);
    this.referenceLabel = labelled("Reference ", this.reference);
    this.seedLabel = labelled("Seed ", this.seed);
    const form = element("form", { class: "filters screen" }, labelled("Pair ", this.pair),
      element("label", {}, this.flip, "flipped only"), this.intrudedLabel, this.referenceLabel, this.seedLabel,
      labelled("Find ", this.search), this.count);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target === this.pair) this.choosePair(this.pair.value);
      else this.fill();
    });
    this.flips = element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Flips" });
    this.list = element("div", { class: "scroll list" });
    this.list.addEventListener("keydown", (event) => this.keyInList(event));
    this.list.addEventListener("scroll", () => {
      const below = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight;
      if (below < 400) this.fillTo(this.list.querySelector("tbody").rows.length + 1);
    });
    this.open = element("div", { class: "open", hidden: true, role: "group", "aria-label": "Open example" });
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
    const entry = (name, text) => element("span", {}, markOf(name, MARKS[name]), ` ${text}`);
    return element("p", { class: "key" }, entry("right", "right"), entry("wrong", "wrong"),
      entry("lost", `flipped down: right at h = 0 and wrong now, or a score that fell by ${this.examples.threshold} or more`),
      entry("gained", `flipped up: wrong at h = 0 and right now, or a score that rose by ${this.examples.threshold} or more`),
      entry("intruded", "intruded: answers the previous task"),
      element("span", {}, element("kbd", {}, "↑"), " ", element("kbd", {}, "↓"), " or ", element("kbd", {}, "j"),
        " ", element("kbd", {}, "k"), " move, ", element("kbd", {}, "Enter"), " opens, ",
        element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " change h, ", element("kbd", {}, "Esc"), " closes"));
  }

  choosePair(value) {
    this.pair.value = value;
    const chosen = this.examples.rows.filter((row) => value === "" || row.pair === Number(value));
    const labels = chosen.filter((row) => row.labelled).map((row) => this.examples.strings[row.references[0]]);
    this.offer(this.reference, [...new Set(labels)].sort());
    this.offer(this.seed, [...new Set(chosen.map((row) => row.seed))].sort((a, b) => a - b));
    this.intrudedLabel.hidden = !chosen.some((row) => row.at.some(isIntruded));
    if (this.intrudedLabel.hidden) this.intruded.checked = false;
    this.countFlips(this.examples.pairs[value === "" ? -1 : Number(value)]);
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
    const line = (name, text, counts) => element("tr", {},
      element("th", { scope: "row" }, markOf(name, MARKS[name]), ` ${text}`),
      ...counts.map((count) => element("td", { class: "number" }, String(count))));
    const heads = pair.lengths.map((h) => element("th", { class: "number" }, `h = ${h}`));
    this.flips.replaceChildren(element("table", { class: "data flips" },
      element("thead", {}, element("tr", {}, element("th", {}, term("flip", "Flipped"), ` examples, of all ${pair.n}`), ...heads)),
      element("tbody", {}, line("lost", "down", pair.lost), line("gained", "up", pair.gained),
        pair.intruded ? line("intruded", "intruded: answers to the previous task (at h = 0: by chance)", pair.intruded) : null)));
  }

  wanted(row) {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const reference = this.reference.value;
    return (this.pair.value === "" || row.pair === Number(this.pair.value)) &&
      (!this.flip.checked || row.at.some(isFlip)) &&
      (!this.intruded.checked || row.at.slice(1).some(isIntruded)) &&
      (reference === "" || (row.labelled && this.examples.strings[row.references[0]] === reference)) &&
      (this.seed.value === "" || row.seed === Number(this.seed.value)) &&
      words.every((word) => row.words.includes(word));
  }

  fill() {
    this.close(false);
    this.shown = this.examples.rows.filter((row) => this.wanted(row));
    this.current = 0;
    const every = this.pair.value === "";
    const lengths = [...new Set(this.shown.flatMap((row) => this.lengthsOf(row)))].sort((a, b) => a - b);
    const several = !this.seedLabel.hidden;
    const heads = ["Target", ...(several ? ["Seed"] : []), ...(every ? ["Pair"] : []), "Reference"];
    const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)),
      element("th", { scope: "col", class: "clip long" }, "Prompt of the target"),
      ...lengths.map((h) => element("th", { scope: "col", class: "state" }, `h = ${h}`)));
    const body = element("tbody");
    this.columns = { every, several, lengths };
    this.list.replaceChildren(element("table", { class: "data", role: "grid", "aria-label": "Examples" },
      element("thead", {}, head), body));
    this.list.scrollTop = 0;
    const { length } = this.shown;
    this.count.textContent = `${length} of ${this.examples.rows.length} examples on this page`;
    this.fillTo(BATCH);
    if (!length) body.append(element("tr", {}, element("td", { colspan: 20 }, "No example matches.")));
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
    const reference = this.examples.strings[row.references[0]];
    const cells = lengths.map((h) => {
      const place = this.lengthsOf(row).indexOf(h);
      return element("td", { class: "state" }, place < 0 ? "" : this.examples.markAt(row, place));
    });
    const made = element("tr", { tabindex: k ? -1 : 0, "aria-selected": "false" },
      element("td", {}, `row ${row.target}`), several ? element("td", {}, String(row.seed)) : null,
      every ? element("td", {}, this.examples.pairs[row.pair].name) : null,
      element("td", { class: "clip" }, reference), element("td", { class: "clip long" }, row.excerpt), ...cells);
    made.addEventListener("click", () => this.openFirst(k));
    return made;
  }

  lengthsOf(row) {
    return this.examples.pairs[row.pair].lengths;
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
    const flip = at.findIndex((each, k) => (this.intruded.checked ? k && isIntruded(each) : isFlip(each)));
    this.at = flip < 0 ? at.length - 1 : flip;
    this.openRow(k);
  }

  openRow(k, focus = true) {
    if (this.openAt !== undefined) this.lineAt(this.openAt).setAttribute("aria-selected", "false");
    this.moveTo(k, false);
    this.openAt = this.current;
    this.lineAt(this.openAt).setAttribute("aria-selected", "true");
    const row = this.shown[this.openAt];
    this.at = Math.min(this.at, row.at.length - 1);
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
    if (event.key in moves) this.chooseLength(Math.min(Math.max(this.at + moves[event.key], 0), length - 1));
    else if (event.key === "j") this.openRow(this.openAt + 1);
    else if (event.key === "k") this.openRow(this.openAt - 1);
    else if (event.key === "Escape") this.close();
    else return;
    event.preventDefault();
  }

  chooseLength(place) {
    this.at = place;
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
      element("h3", { tabindex: -1 }, `${this.examples.pairs[row.pair].name}: row ${row.target}${seed}`),
      button("Previous", () => this.openRow(this.openAt - 1), this.openAt === 0),
      button("Next", () => this.openRow(this.openAt + 1), this.openAt === this.shown.length - 1),
      button("Close", () => this.close()));
    const example = new Example(this.examples, row, this.at);
    const answers = example.answers((place) => this.chooseLength(place));
    this.open.hidden = false;
    this.open.replaceChildren(head, example.references(), answers, this.conversation(example));
    const chosen = answers.querySelector("[aria-current]");
    answers.scrollLeft = chosen.offsetLeft + chosen.offsetWidth - answers.clientWidth;
  }

  conversation(example) {
    const whole = element("input", { type: "checkbox", checked: this.exact });
    const place = element("div", {}, ...example.conversation(this.exact));
    whole.addEventListener("change", () => {
      this.exact = whole.checked;
      place.replaceChildren(...example.conversation(this.exact));
    });
    const turns = example.h === 1 ? "1 turn" : `${example.h} turns`;
    return element("section", { class: "conversation" },
      element("h3", {}, `What the model read at h = ${example.h} (${turns} of history)`),
      element("label", { class: "screen" }, whole, " exact text, with all that the template adds"), place);
  }
}

const packed = document.getElementById("data").textContent;
const placeOfExplorer = document.getElementById("explorer");
unpack(packed).then(
  (data) => new Explorer(new Examples(data), placeOfExplorer),
  (error) => placeOfExplorer.append(`This browser cannot unpack the examples (${error.message}).`),
);
