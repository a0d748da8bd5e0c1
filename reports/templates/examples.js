/* The embedded examples: their texts, and the marks of what became of them. */
const MARKS = { right: "✓", wrong: "✗", lost: "▼", gained: "▲", scored: "", intruded: "↩" };
const FOR_LABELS = {
  right: "right", wrong: "wrong", lost: "right at h = 0, wrong now", gained: "wrong at h = 0, right now",
};

/* The JSON in base64 of gzip. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
const isIntruded = ({ intruded }) => intruded === true;
const isFlip = ({ state }) => state === "lost" || state === "gained";

function markOf(name, text, spoken = null) {
  const made = element("span", { class: `mark ${name}` }, text);
  if (spoken) made.append(element("span", { class: "unseen" }, ` ${spoken}`));
  return made;
}

class Examples {
  constructor(data) {
    Object.assign(this, data); // strings, pairs, rows, threshold
    for (const row of this.rows) row.words = this.wordsOf(row);
    this.cutExcerpts();
  }

  join(places) {
    return places.map((place) => this.strings[place]).join("");
  }

  /* What a search looks through: what was said, without what the template adds to it. */
  wordsOf(row) {
    const said = row.messages.map(([, place]) => place);
    const answers = row.at.flatMap((at) => [at.answer, at.text, at.cued?.answer]);
    const places = [...said, ...answers, ...row.references].filter((place) => place !== undefined);
    return places.map((place) => this.strings[place]).join("\n").toLowerCase();
  }

  /* The beginning of each target, without the words that all targets of its pair begin with. */
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

  targetText(row) {
    return this.strings[row.messages.at(-1)[1]].trim();
  }

  /* The mark of one history length, by its place, with a sign where the answer is to the previous task. */
  markAt(row, place) {
    const made = element("span", {}, this.stateOf(row, place));
    if (place && isIntruded(row.at[place])) made.append(markOf("intruded", MARKS.intruded, "answers the previous task"));
    return made;
  }

  /* A sign for right and wrong, a number for a score. */
  stateOf(row, place) {
    const { state, score, change } = row.at[place];
    if (!this.pairs[row.pair].graded) return markOf(state, MARKS[state], FOR_LABELS[state]);
    const moved = `${change < 0 ? "fell" : "rose"} by ${Math.abs(change).toFixed(3)}`;
    return markOf(state, `${MARKS[state]}${score.toFixed(3)}`, state === "scored" ? null : moved);
  }
}
