"""Claims about a report in a real browser, offline: what it shows, and what its reader can do.

Needs chromium and its driver (Debian: chromium, chromium-driver); without them these are skipped.
"""

import base64
import contextlib
import io
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
from pages import HOSTILE, LENGTHS, TARGETS, examples_of, right, write_grid, write_pair

import viz
from core import records
from measures import scoring
from reports import page as report_page
from reports import tables
from reports.meanings import MEANINGS

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
AXE = Path(sys.prefix, "node_modules", "axe-core", "axe.min.js")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: a browser shows the report"
)
FLIPPED = [i for i in range(TARGETS) if len({right(i, h) for h in LENGTHS}) > 1]
INTRUDED = (2, 7)  # targets of the pooled pair, at h = 2
QUIZ = "quiz/test after posts/test (seed 0)"
POSTS = "posts/test after quiz/test (seed 0)"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Four pairs with a hostile row, and one more that pools two seeds and reads both ways."""
    folder = tmp_path_factory.mktemp("browser")
    write_grid(folder, HOSTILE)
    pooled = examples_of("quiz/test", "posts/test", seeds=(0, 1))
    for example in pooled:
        scores, expected = example["label_logprobs"], example["expected_answer"]
        example |= scoring.judge_labels(scores, expected, "both", "neither")
        place = example["config"]
        example["intruded"] = place["target_idx"] in INTRUDED and place["history_len"] == 2
    write_pair(folder, distractor="quiz/dev", examples=pooled)
    return folder


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    """The address of the report."""
    return page_of(results, tmp_path_factory.mktemp("page") / "report.html")


def page_of(results: Path, out: Path) -> str:
    """The address of a report; figures are a white dot, since drawing them takes long."""
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        size = {"uri": dot, "width": 860, "height": 370, "caption": "A figure."}
        patch.setattr(
            report_page,
            "image",
            lambda each: size | {"measure": each.measure, "names": dict(each.names)},
        )
        assert viz.main(["report", "--result_dir", str(results), "--out", str(out)]) == 0
    return out.as_uri()


@pytest.fixture
def browser(driver, page):
    """The report, freshly opened at 1280 x 900 with no network, its explorer ready."""
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    resize(driver, 1280)
    emulate(driver)
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page)
    WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".list tbody tr"))
    return driver


def resize(driver, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def emulate(driver, media: str = "", scheme: str = "light") -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})


def all_of(browser, selector: str) -> list:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(browser, selector: str):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector: str) -> list[str]:
    """Text of every element that is shown."""
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter((e) => e.offsetParent).map((e) => e.innerText)"
    )
    return browser.execute_script(script, selector)


def choose(browser, name: str, value: str) -> None:
    """Choose the option of a select that shows this text."""
    script = (
        "const [select, text] = arguments;"
        "select.value = [...select.options].find((o) => o.text.startsWith(text)).value;"
        "for (const kind of ['input', 'change'])"
        "  select.dispatchEvent(new Event(kind, { bubbles: true }));"
    )
    browser.execute_script(script, one(browser, f"[name={name}]"), value)


def open_rows(browser) -> list[int]:
    """Targets of the rows in the list."""
    cells = texts(browser, ".list tbody td:first-child")
    return [int(cell.removeprefix("row ")) for cell in cells if cell.startswith("row ")]


@cache
def log_of(folder: Path, name: str) -> list[dict]:
    target, _, distractor = name.partition(" (")[0].partition(" after ")
    path = records.debug_path(records.result_path(folder, "org/name", target, distractor))
    return records.read_debug(path)["debug_examples"]


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


# --- safe and self-contained


def test_the_report_opens_without_errors_and_asks_for_nothing(browser, page):
    choose(browser, "pair", "all pairs")
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in asked if not url.startswith("data:")} == {page}


def test_the_page_may_not_reach_the_network(browser):
    script = (
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective));"
        "fetch('https://example.org').catch(() => {});"
    )
    assert browser.execute_async_script(script) in ("connect-src", "default-src")


def test_a_hostile_row_is_inert_and_shown_as_it_is(browser):
    browser.execute_script("window.alert = () => { window.alerted = true; };")
    choose(browser, "pair", QUIZ)
    one(browser, ".list tbody tr:nth-child(4)").click()
    shown = "\n".join(texts(browser, ".turn pre"))
    for part in ("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>"):
        assert part in shown
    assert not all_of(browser, "[src=x]")
    assert browser.execute_script("return window.alerted") is None


# --- the table


def column_of(browser, name: str) -> list[str]:
    """Text of a column of the verdict table, in the rows that are shown."""
    heads = [text.strip() for text in texts(browser, "#verdicts thead th")]
    place = heads.index(name) + 1
    return texts(browser, f"#verdicts tbody tr:not([hidden]) td:nth-child({place})")


def head_of(browser, name: str):
    return one(browser, f"#verdicts [aria-label='Sort by {name}']")


@pytest.mark.parametrize(
    ("column", "name"),
    [("Change (points)", "change_points"), ("p (Holm)", "p_holm_table"), ("Value", "value")],
)
def test_the_table_sorts_by_the_number_both_ways_and_empty_cells_come_last(
    browser, results, column, name
):
    frame = tables.make_frame(records.load_results([results]))
    frame["text"] = tables.rounded(frame)[column]
    for ascending, order in ((True, "ascending"), (False, "descending")):
        head = head_of(browser, column)
        head.click()
        expected = frame.sort_values(name, ascending=ascending, kind="stable")["text"].tolist()
        shown = column_of(browser, column)
        assert [float(re.split(r"[ *]", text)[0]) for text in shown if text] == [
            float(re.split(r"[ *]", text)[0]) for text in expected if text
        ]
        filled = [bool(text) for text in shown]
        assert filled == sorted(filled, reverse=True)
        assert head.find_element(By.XPATH, "..").get_attribute("aria-sort") == order


def test_the_table_filters_by_words_by_h_and_by_significance(browser, results):
    frame = tables.make_frame(records.load_results([results]))
    one(browser, "[name=words]").send_keys("POSTS rouge")
    wanted = (frame["metric"] == "rouge") & (frame["target"] == "posts/test")
    assert len(column_of(browser, "h")) == wanted.sum()
    choose(browser, "h", "2")
    assert column_of(browser, "h") == ["2"] * (wanted & (frame["h"] == 2)).sum()
    assert one(browser, "[data-table] output").text == f"2 of {len(frame)} rows"
    one(browser, "[name=words]").clear()
    choose(browser, "h", "all")
    one(browser, "[name=significant]").click()
    assert len(column_of(browser, "h")) == (frame["stars"] != "").sum()


def test_the_heat_map_follows_its_switch(browser):
    for h in LENGTHS[1:]:
        one(browser, f"[name=heat-h][value='{h}']").click()
        captions = texts(browser, ".heat caption")  # one for each choice of seeds
        assert captions == [f"Change in points at h = {h}, seed {s}" for s in ("0", "0 1")]


def test_the_layers_of_one_pair_are_shown_at_a_time(browser):
    assert len(texts(browser, "[data-where] h3")) == 1
    browser.execute_script(
        "const s = document.querySelector('[data-switch=where]');"
        "s.selectedIndex = 3; s.dispatchEvent(new Event('change'));"
    )
    chosen = "return document.querySelector('[data-switch=where]').selectedOptions[0].text"
    assert texts(browser, "[data-where] h3") == [browser.execute_script(chosen)]


# --- the explorer


def test_a_cell_per_history_length_says_right_wrong_or_flipped(browser):
    choose(browser, "pair", QUIZ)
    assert open_rows(browser) == list(range(TARGETS))
    for i, row in enumerate(all_of(browser, ".list tbody tr")):
        marks = [mark.text.split()[0] for mark in row.find_elements(By.CSS_SELECTOR, ".mark")]
        plain = {True: "✓", False: "✗"}
        flips = {True: "▲", False: "▼"}
        expected = [(plain if right(i, h) == right(i, 0) else flips)[right(i, h)] for h in LENGTHS]
        assert marks == expected


def test_a_score_is_shown_and_marked_where_it_flips(browser, results):
    choose(browser, "pair", POSTS)
    shown = [mark.split()[0] for mark in texts(browser, ".list .mark")]
    log = log_of(results, POSTS)
    expected = []
    for example in log:
        h, start = example["config"]["history_len"], log[len(expected) // 3 * 3]["score"]
        assert example["config"]["history_len"] == h
        change = example["score"] - start
        sign = "" if abs(change) < 0.5 else "▼" if change < 0 else "▲"
        expected.append(f"{sign}{example['score']:.3f}")
    assert shown == expected


def test_flipped_only_shows_those_that_the_log_says_are_flipped(browser):
    choose(browser, "pair", QUIZ)
    one(browser, "[name=flipped]").click()
    assert open_rows(browser) == FLIPPED
    assert f"{len(FLIPPED)} of" in one(browser, "#explorer output").text


def test_the_page_leads_to_the_flipped_prompts_of_its_pair(browser):
    link = one(browser, "#hurt a[data-pair]")
    name = link.find_element(By.XPATH, "../../th").text
    link.click()
    chosen = one(browser, "[name=pair]")
    assert chosen.find_element(By.CSS_SELECTOR, "option:checked").text.startswith(name)
    assert one(browser, "[name=flipped]").is_selected()


def test_examples_are_filtered_by_reference_seed_and_words(browser, results):
    choose(browser, "pair", QUIZ)
    choose(browser, "reference", "B")
    by_reference = [i for i in range(TARGETS) if i // 2 % 2]
    assert open_rows(browser) == by_reference
    one(browser, "[name=search]").send_keys("in ROW 7")
    log = log_of(results, QUIZ)
    found = {
        e["config"]["target_idx"]
        for e in log
        if all(word in e["prompt_text"].lower() for word in ("in", "row", "7"))
    }
    assert open_rows(browser) == [i for i in by_reference if i in found]
    choose(browser, "pair", "quiz/test after quiz/dev (seed 0 1)")
    one(browser, "[name=search]").clear()
    one(browser, "[name=search]").send_keys(" ")
    assert len(open_rows(browser)) == 2 * TARGETS
    choose(browser, "seed", "1")
    assert open_rows(browser) == list(range(TARGETS))


def test_words_that_no_example_holds_leave_an_empty_list_that_keys_do_not_break(browser):
    one(browser, "[name=search]").send_keys("nowhere to be found")
    assert texts(browser, ".list tbody td") == ["No example matches."]
    browser.execute_script("document.querySelector('.list tbody tr').tabIndex = 0")
    one(browser, ".list tbody tr").click()
    browser.execute_script("document.querySelector('.list tbody tr').focus()")
    press(browser, "j", Keys.ENTER, Keys.ESCAPE)
    assert browser.get_log("browser") == []


def test_a_search_passes_over_the_template_and_the_system_prompt(browser):
    for words in ("im_start", "be brief"):
        one(browser, "[name=search]").clear()
        one(browser, "[name=search]").send_keys(words)
        assert open_rows(browser) == []


def test_the_keyboard_walks_opens_changes_h_and_closes(browser):
    choose(browser, "pair", QUIZ)
    one(browser, "[name=search]").send_keys(Keys.TAB, Keys.TAB)
    press(browser, Keys.TAB) if browser.switch_to.active_element.tag_name != "tr" else None
    assert browser.switch_to.active_element.text.startswith("row 0")
    press(browser, Keys.ARROW_DOWN, "j", "j", "k", Keys.ARROW_UP, "j")
    assert browser.switch_to.active_element.text.startswith("row 2")
    outline = browser.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid"
    press(browser, Keys.ENTER)
    assert one(browser, ".open h3").text == f"{QUIZ}: row 2"
    assert browser.switch_to.active_element.tag_name == "h3"
    press(browser, *[Keys.ARROW_LEFT] * 3)
    assert "at h = 0" in one(browser, ".conversation h3").text
    press(browser, Keys.ARROW_RIGHT)
    assert "at h = 1" in one(browser, ".conversation h3").text
    press(browser, "j")
    assert one(browser, ".open h3").text == f"{QUIZ}: row 3"
    assert one(browser, ".list [aria-selected=true]").text.startswith("row 3")
    press(browser, Keys.ESCAPE)
    assert not one(browser, ".open").is_displayed()
    assert browser.switch_to.active_element.text.startswith("row 3")
    press(browser, Keys.END)
    assert browser.switch_to.active_element.text.startswith(f"row {TARGETS - 1}")


def test_the_exact_prompt_of_every_h_can_be_read(browser, results):
    choose(browser, "pair", QUIZ)
    one(browser, ".list tbody tr:nth-child(4)").click()
    one(browser, ".conversation input").click()
    prompts = [e["prompt_text"] for e in log_of(results, QUIZ) if e["config"]["target_idx"] == 3]
    for h, prompt in enumerate(prompts):
        all_of(browser, ".answers thead button")[h].click()
        assert one(browser, ".exact").get_property("textContent") == prompt


def test_turns_are_read_in_order_with_their_source_and_the_answer(browser, results):
    choose(browser, "pair", QUIZ)
    one(browser, ".list tbody tr:nth-child(6)").click()
    all_of(browser, ".answers thead button")[2].click()
    heads, said = texts(browser, ".turn h4"), texts(browser, ".turn pre")
    assert heads == [
        "user · turn 1, distractor, row 150", "assistant · turn 1, distractor, row 150",
        "user · turn 2, distractor, row 151", "assistant · turn 2, distractor, row 151",
        "user · target, row 5", "assistant · the answer",
    ]  # fmt: skip
    assert said[0] == "What does post 150 say?\nAnswer:"
    example = log_of(results, QUIZ)[5 * len(LENGTHS) + 2]
    assert said[-1] == example["model_prediction"]


def test_turns_without_answers_are_read_a_message_each(driver, tmp_path):
    examples = examples_of("quiz/test", "posts/test", count=1)
    for example in examples:
        example["messages"] = [each for each in example["messages"] if each["role"] == "user"]
    write_pair(tmp_path / "results", examples=examples, history="user_only")
    driver.get(page_of(tmp_path / "results", tmp_path / "report.html"))
    WebDriverWait(driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, ".list tbody tr"))
    one(driver, ".list tbody tr").click()
    turns = ["user · turn 1, distractor, row 100", "user · turn 2, distractor, row 101"]
    for h in LENGTHS:
        all_of(driver, ".answers thead button")[h].click()
        last = ["user · target, row 0", "assistant · the answer"]
        assert texts(driver, ".turn h4") == [*turns[:h], *last]


def test_answers_probabilities_and_layers_stand_side_by_side(browser, results):
    choose(browser, "pair", QUIZ)
    one(browser, ".list tbody tr:nth-child(6)").click()
    group = log_of(results, QUIZ)[5 * len(LENGTHS) : 6 * len(LENGTHS)]
    rows = {
        row.find_element(By.TAG_NAME, "th").text: row.find_elements(By.TAG_NAME, "td")
        for row in all_of(browser, ".answers tbody tr")
    }
    assert [cell.text for cell in rows["Answer"]] == [e["model_prediction"] for e in group]
    layers = rows["Decision layer (of 4 blocks)"]
    assert [cell.text for cell in layers] == [str(e["decision_layer"]) for e in group]
    [bars] = [cells for name, cells in rows.items() if name.startswith("P(label)")]
    for cell, example in zip(bars, group):
        numbers = [each.text for each in cell.find_elements(By.CSS_SELECTOR, ".number")]
        logprobs = example["label_logprobs"].values()
        assert numbers[1::2] == [f"\N{MINUS SIGN}{-value:.3f}" for value in logprobs]
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.track i')].map((bar) => bar.style.width)"
    )
    assert "100%" in widths


def test_a_format_failure_says_what_the_text_lacks(browser):
    choose(browser, "pair", "quiz/test after quiz/dev")
    one(browser, ".list tbody tr").click()
    failures = texts(browser, ".answers tbody tr:has(td)")
    [line] = [text.split("\t") for text in failures if text.startswith("Format")]
    assert line[1:] == ["failed: no single label in the text"] * len(LENGTHS)


def test_answers_to_the_previous_task_are_marked_counted_and_filtered(browser):
    choose(browser, "pair", QUIZ)
    assert not one(browser, "[name=intruded]").is_displayed()
    choose(browser, "pair", "quiz/test after quiz/dev")
    marks = texts(browser, ".list .mark.intruded")
    assert len(marks) == 2 * len(INTRUDED) and all("↩" in mark for mark in marks)  # of two seeds
    counts = [text for text in texts(browser, ".flips tr") if "previous task" in text]
    assert [text.split("\t")[1:] for text in counts] == [["0", "0", "4"]]
    one(browser, "[name=intruded]").click()
    assert sorted(open_rows(browser)) == sorted([*INTRUDED, *INTRUDED])
    one(browser, ".list tbody tr").click()
    assert "at h = 2" in one(browser, ".conversation h3").text
    [line] = [row for row in texts(browser, ".answers tr") if row.startswith("Intruded")]
    assert line.split("\t")[3] == "answers the previous task"


# --- how it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_at_390_pixels_only_tables_scroll_sideways(browser, scheme):
    resize(browser, 390)
    emulate(browser, scheme=scheme)
    one(browser, ".list tbody tr").click()
    root = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert len({*browser.execute_script(root)}) == 1


@pytest.mark.parametrize("table", [".answers", "#hurt .data", "#limits .data"])
def test_at_390_pixels_what_a_row_is_stays_in_view_and_leaves_half_of_the_room(browser, table):
    resize(browser, 390)
    one(browser, ".list tbody tr").click()
    script = (
        "const table = document.querySelector(arguments[0]), box = table.parentElement;"
        "box.scrollLeft = 1000;"
        "const { left, width } = box.getBoundingClientRect();"
        "const heads = table.querySelectorAll('tr th:first-child');"
        "return [box.scrollLeft, [...heads].map((head) => head.getBoundingClientRect())"
        "  .map((head) => [head.left - left, head.width / width])];"
    )
    scrolled, heads = browser.execute_script(script, table)
    assert scrolled > 0
    assert all(abs(left) < 1 and 0.2 < share < 0.5 for left, share in heads)


VIOLATIONS = """
const done = arguments[0];
axe.run(document).then(({ violations }) => done(violations.map(({ id, nodes }) =>
  [id, ...nodes.slice(0, 3).map((node) => node.html.slice(0, 200))])));
"""


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: scripts/check.sh installs it with npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation(browser, width, scheme):
    resize(browser, width)
    emulate(browser, scheme=scheme)
    one(browser, ".list tbody tr").click()
    one(browser, "#hurt .meaning").click()
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    assert browser.execute_async_script(VIOLATIONS) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_measures_name_opens_its_meaning_by_mouse_and_by_keyboard(browser, width):
    resize(browser, width)
    button = one(browser, "#hurt [popovertarget=meaning-change]")
    meaning = one(browser, f"#{button.get_attribute('popovertarget')}")
    assert not meaning.is_displayed()
    button.click()
    assert meaning.is_displayed()
    assert meaning.text == "{}: {}".format(*MEANINGS["change"])
    press(browser, Keys.ESCAPE)
    assert not meaning.is_displayed()
    press(browser, Keys.ENTER)
    assert meaning.is_displayed()
    box = meaning.rect
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


@pytest.mark.parametrize("width", [1280, 390])
def test_a_meaning_is_never_cut_off(browser, width):
    resize(browser, width)
    script = (
        "const open = [...document.querySelectorAll('#hurt .meaning, #numbers .meaning')];"
        "return open.map((button) => {"
        "  const meaning = document.getElementById(button.getAttribute('popovertarget'));"
        "  meaning.hidePopover();"
        "  button.scrollIntoView({ block: 'center', inline: 'end' });"
        "  button.click();"
        "  const { left, right, width } = meaning.getBoundingClientRect();"
        "  return [left, right, width]; });"
    )
    boxes = browser.execute_script(script)
    assert boxes and all(left >= 0 and right <= width and w > 150 for left, right, w in boxes)


def test_on_paper_every_meaning_is_written_out(browser):
    emulate(browser, media="print")
    shown = texts(browser, "#meanings p")
    assert shown == ["{}: {}".format(*meaning) for meaning in MEANINGS.values()]


CONTRASTS = """
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const found = channels(getComputedStyle(e).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')]
  .filter((e) => e.offsetParent && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => {
    const [a, b] = [light(channels(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return [ratio, e.className, e.textContent.slice(0, 40)];
  })
  .filter(([ratio]) => ratio < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_4_5_or_more(browser, scheme):
    emulate(browser, scheme=scheme)
    one(browser, ".list tbody tr").click()
    assert browser.execute_script(CONTRASTS) == []


def test_on_paper_there_are_all_tables_and_the_open_example_but_no_controls(browser):
    choose(browser, "pair", QUIZ)
    one(browser, ".list tbody tr:nth-child(4)").click()
    emulate(browser, media="print", scheme="dark")
    controls = "input, select, .sort, .open-head button, nav"
    assert not [each for each in all_of(browser, controls) if each.is_displayed()]
    assert len(texts(browser, ".heat caption")) == 2 * (len(LENGTHS) - 1)
    assert one(browser, ".open .turn").is_displayed()
    assert all(
        "auto" not in box.value_of_css_property("overflow") for box in all_of(browser, ".tall")
    )
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")
