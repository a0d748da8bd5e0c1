"""A Hub that misbehaves: a run ends well or in two plain lines, soon, and uses nothing half."""

import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic

import fake_hub
import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from fake_hub import LONGEST, Fault
from huggingface_hub.utils import httpx

import test_debug
from core import patience
from core.patience import Patience
from tasks import spec

ANSWER = 3  # HF_HUB_ETAG_TIMEOUT of the runs, else 10
BOUND = 30  # seconds of a run here on a busy machine; most take 1 to 7
QUICK = {("huggingface_hub.constants", "HF_HUB_ETAG_TIMEOUT"): 1}  # where nothing is tried again
NUMBERS = count()
TOKEN = "hf_aSecretThatNobodyMaySee"
TASK = """mine:
  source: {name}
  split: test
  prompt: "{{question}}"
  reference: answer
  labels: ["yes", "no"]
"""


@dataclass(frozen=True)
class Place:
    """The fake Hub with its two good repositories, and the folders of the runs."""

    hub: fake_hub.FakeHub
    root: Path
    model: Path
    rows: Path

    @property
    def cache(self) -> Path:
        return self.root / "home" / "hub"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    tiny.model("llama").save_pretrained(root / "model")
    tiny.tokenizer().save_pretrained(root / "model")
    (root / "rows" / "data").mkdir(parents=True)
    rows = [{"question": f"is {i} even?", "answer": ["yes", "no"][i % 2]} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), root / "rows/data/test-00000-of-00001.parquet")
    (root / "rows" / "README.md").write_text("# Rows\n")
    with fake_hub.running() as hub:
        forked.start(
            {
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(root / "home"),
                "HF_TOKEN": TOKEN,
                "HF_HUB_ETAG_TIMEOUT": str(ANSWER),
                "HF_HUB_DOWNLOAD_TIMEOUT": "1",
                "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # asks another host
                "DISABLE_SAFETENSORS_CONVERSION": "1",  # likewise
                "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms",
                "TQDM_DISABLE": "1",
            }
        )
        yield Place(hub, root, root / "model", root / "rows")


class Runs:
    """Runs that want one repository of the fake Hub, each time in the same words."""

    def __init__(self, place: Place, kind: str):
        name = f"{kind}-{next(NUMBERS)}x"  # none is the beginning of another
        self.place, self.kind, self.name = place, kind, f"org/{name}"
        self.folder = place.root / name
        place.hub.repos[self.name] = getattr(place, kind)
        self.count = 0

    @property
    def cached(self) -> Path:
        plural = {"model": "models", "rows": "datasets"}[self.kind]
        return self.place.cache / f"{plural}--{self.name.replace('/', '--')}"

    def fails_by(self, fault: Fault) -> Fault:
        """Add a fault with the requests for this repository that match."""
        fault.match = fault.match.replace("NAME", self.name) or self.name  # "": all of them
        self.place.hub.faults.append(fault)
        return fault

    def __call__(self, environment=None, constants=None) -> forked.Outcome:
        self.count += 1
        folder = self.folder / str(self.count)
        flags = ["--limit", 2, "--max_len", 1, "--out_dir", folder / "results"]
        if self.kind == "model":
            flags += ["--model", self.name, "--target", "quiz", "--distractor", "reviews"]
        else:
            folder.mkdir(parents=True)
            (folder / "tasks.yaml").write_text(TASK.format(name=self.name))
            flags += ["--task_file", folder / "tasks.yaml", "--model", self.place.model]
            flags += ["--target", "mine", "--distractor", "mine"]
        outcome = forked.run(flags, folder, environment, constants)
        assert TOKEN not in outcome.out + outcome.err
        return outcome

    def log(self) -> bytes:
        """The log of the last run."""
        [log] = (self.folder / str(self.count)).rglob("*_debug.json")
        return log.read_bytes()


@pytest.fixture(params=["model", "rows"])
def runs(request, place):
    """Runs of a model or of rows that no other test has."""
    return Runs(place, request.param)


@pytest.fixture(scope="module")
def ahead(request, place):
    """Runs of all selected tests of trouble, some at a time, since most of them wait."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    asked = [call.params for call in asked if call and "trouble" in call.params]
    with ThreadPoolExecutor(4) as pool:
        yield {
            (kind, trouble): pool.submit(suffer, Runs(place, kind), trouble)
            for kind, trouble in [(params["kind"], params["trouble"]) for params in asked]
        }


def suffer(runs, trouble):
    """A run in trouble, and where files were cut one more with the same cache."""
    fault = runs.fails_by(Fault(**vars((LASTING | PASSING)[trouble][0])))
    first = runs()
    assert not list(runs.cached.rglob("*.incomplete"))
    runs.place.hub.faults.remove(fault)
    return runs, first, runs() if trouble in HALF else None


def assert_refused(outcome, *words):
    assert outcome.code == 2, outcome
    said = outcome.err.splitlines()
    while not said[0].startswith("error: "):
        assert said.pop(0).endswith(" ..."), outcome.err  # what is waited for
    assert len(said) <= 2, outcome.err
    assert outcome.out == ""
    assert all(word in outcome.err for word in words), outcome.err
    assert outcome.seconds < BOUND


def assert_right(runs, outcome):
    assert outcome.code == 0, outcome.err
    source = getattr(runs.place, runs.kind)
    [snapshot] = (runs.cached / "snapshots").iterdir()
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.read_bytes() == (source / path.relative_to(snapshot)).read_bytes()


# --- trouble that lasts

LASTING = {
    "gated": (Fault("", 403, fake_hub.GATED), "accept its licence at https://huggingface.co/"),
    "gated for strangers": (Fault("", 401, fake_hub.GATED), "`hf auth login` or set HF_TOKEN"),
    "absent": (Fault("", 404, fake_hub.NO_REPO), "on the Hub that you can read"),
    "bad token": (Fault("", 401, fake_hub.BAD_TOKEN), "does not take your token (401)"),
    "forbidden": (Fault("", 403), "(403)"),
    "limited": (Fault("", 429), "too many requests to the Hub (429)"),
    "limited for an hour": (Fault("", 429, {"Retry-After": "3600"}), "(429, wait 3600 s)"),
    "limited in a window": (Fault("", 429, {"RateLimit": '"api";r=0;t=299'}), "(429, wait 299 s)"),
    "broken": (Fault("", 503), "the Hub is in trouble (503)"),
    "broken for an hour": (Fault("", 503, {"Retry-After": "3600"}), "in trouble (503)"),
    "odd": (Fault("", 520), "the Hub is in trouble (520)"),
    "cut": (Fault("GET /.*NAME/resolve", cut=True), "breaks off in the middle of a file"),
    "stalled": (Fault("GET /.*NAME/resolve", stall=True), "breaks off in the middle of a file"),
    "silent": (Fault("", pause=LONGEST), "does not answer"),
    "silent in files": (Fault("GET /.*NAME/resolve", pause=LONGEST), "does not answer"),
    "a page for logging in": (Fault("", 200, {"Content-Type": "text/html"}), "Check HF_ENDPOINT"),
}
HALF = ("cut", "stalled", "silent in files", "broken")  # may leave a part of the files


@pytest.mark.parametrize("kind", ["model", "rows"])
@pytest.mark.parametrize("trouble", LASTING)
def test_lasting_trouble_is_two_plain_lines_and_leaves_nothing_half(ahead, kind, trouble):
    runs, outcome, later = ahead[kind, trouble].result()
    assert_refused(outcome, LASTING[trouble][1], runs.name)
    if trouble in HALF:
        assert_right(runs, later)


@pytest.mark.parametrize("store", ["refuses", pytest.param("silent", marks=pytest.mark.slow)])
def test_a_file_store_that_does_not_answer_is_two_plain_lines(runs, store):
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"http://127.0.0.1:{server.getsockname()[1]}"
        if store == "refuses":
            server.close()
        route = f"{runs.place.hub.endpoint}/api/models/{runs.name}/xet-read-token/main"
        access = {"X-Xet-Cas-Url": where, "X-Xet-Access-Token": TOKEN}
        runs.fails_by(
            Fault("NAME/xet-read-token", 200, access | {"X-Xet-Token-Expiration": "9" * 10})
        )
        in_store = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": route}
        runs.fails_by(Fault("HEAD .*NAME.*(safetensors|parquet)", headers=in_store))
        assert_refused(
            runs(), "Downloading files of", runs.name, "file store (Xet)", "HF_HUB_DISABLE_XET=1"
        )


def test_a_data_set_that_is_a_script_is_refused(place):
    runs = Runs(place, "rows")
    folder = place.root / "script"
    folder.mkdir()
    (folder / f"{runs.name.partition('/')[2]}.py").write_text("raise SystemExit\n")
    place.hub.repos[runs.name] = folder
    assert_refused(runs(), runs.name, "scripts are no longer supported")


# --- trouble that passes

PASSING = {
    "broken at the file": (Fault("GET /.*NAME/resolve.*(safetensors|parquet)", 503, times=1),),
    "broken twice": (Fault("HEAD .*NAME", 503, times=2),),
    "limited at the file": (Fault("GET /.*NAME/resolve", 429, times=1),),
    "cut once": (Fault("GET /.*NAME/resolve.*(safetensors|parquet)", cut=True, times=1),),
    "cut in every file": (Fault("GET /.*NAME/resolve.*a", cut=True, times=2),),
    "stalled once": (Fault("GET /.*NAME/resolve.*(safetensors|parquet)", stall=True, times=1),),
    "slow": (Fault("HEAD .*NAME", pause=0.5, times=3),),
}


@pytest.mark.parametrize("kind", ["model", "rows"])
@pytest.mark.parametrize("trouble", PASSING)
def test_passing_trouble_is_overcome_with_every_byte_right(ahead, kind, trouble):
    runs, outcome, _ = ahead[kind, trouble].result()
    assert_right(runs, outcome)
    assert outcome.seconds < BOUND


# --- a cache that is full, and a Hub that does not help

UNHELPFUL = {
    "refuses connections": None,
    "silent": Fault("", pause=LONGEST),
    "broken": Fault("", 503),
}


@contextmanager
def unhelpful(runs, how):
    fault = UNHELPFUL[how]
    if fault is None:
        with runs.place.hub.down():
            yield
    else:
        fault = runs.fails_by(Fault(**vars(fault)))
        yield
        runs.place.hub.faults.remove(fault)


@pytest.fixture(scope="module")
def full(place):
    """Runs of a model and of rows that are in the cache, with their logs."""
    filled = {}
    for kind in ("model", "rows"):
        runs = Runs(place, kind)
        assert_right(runs, runs())
        filled[kind] = (runs, runs.log())
    return filled


@pytest.mark.parametrize("kind", ["model", "rows"])
@pytest.mark.parametrize("how", UNHELPFUL)
def test_what_is_in_the_cache_needs_no_hub(full, kind, how):
    runs, log = full[kind]
    with unhelpful(runs, how):
        outcome = runs(constants=QUICK)
    assert outcome.code == 0, outcome.err
    assert outcome.seconds < BOUND
    assert runs.log() == log


@pytest.mark.parametrize("how", ["refuses connections", "silent"])
def test_what_is_not_in_the_cache_is_refused_without_a_hub(runs, how):
    with unhelpful(runs, how):
        assert_refused(
            runs(constants=QUICK), "is not in the cache and the Hub (127.0.0.1:", "HF_HUB_OFFLINE=1"
        )


def test_a_hub_that_was_given_up_is_not_waited_for_again(place):
    runs = Runs(place, "model")
    runs.fails_by(Fault("", pause=LONGEST))
    assert_refused(runs(constants=QUICK), "does not answer")
    assert len(place.hub.asked(runs.name)) == 1  # of the twenty that a model takes


# --- files that the cache has and that are not whole


def damage(runs, name):
    [path] = runs.cached.glob(f"snapshots/*/{name}")
    content = path.read_bytes()
    path.resolve().write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_of_a_model_cut_in_the_cache_is_refused(place, name):
    runs = Runs(place, "model")
    assert_right(runs, runs())
    damage(runs, name)
    assert_refused(runs(), f"'{runs.name}'", f"delete {runs.cached}")


def test_rows_cut_in_the_cache_are_refused(place):
    runs = Runs(place, "rows")
    runs()
    shutil.rmtree(place.root / "home" / "datasets")  # where rows are kept once they were read
    damage(runs, "data/*.parquet")
    assert_refused(runs(), runs.name, f"delete {runs.cached}")


# --- a single request that fails


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json"])
def test_a_model_is_not_run_without_a_file_that_the_hub_withholds(place, name):
    runs = Runs(place, "model")
    fault = runs.fails_by(Fault(f"NAME/resolve/.*/{re.escape(name)}$", 403))
    assert_refused(runs(), runs.name, "(403)")
    place.hub.faults.remove(fault)
    assert_right(runs, runs())


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("kind", ["model", "rows"])
def test_trouble_with_any_single_request_changes_no_number(place, full, kind, status):
    runs, log = full[kind]
    asked = dict.fromkeys(r.replace(runs.name, "NAME") for r in place.hub.asked(runs.name))

    def fails_in(request):
        again = Runs(place, kind)
        again.fails_by(Fault(f"{re.escape(request)}$", status))
        return request, again(), again

    with ThreadPoolExecutor(4) as pool:
        for request, outcome, again in pool.map(fails_in, asked):
            if outcome.code == 0:
                assert again.log() == log.replace(runs.name.encode(), again.name.encode()), request
            else:
                assert_refused(outcome, f"({status})", again.name)


# --- what is said


def test_a_wait_is_told_with_whom_it_is_for(runs):
    runs.fails_by(Fault("", pause=1.5, times=1))
    outcome = runs(constants={("core.patience", "NOTICE"): 0.2})
    assert outcome.code == 0
    assert (
        f"Waiting for the Hub (127.0.0.1:{runs.place.hub.port}): no answer yet ..." in outcome.err
    )


def test_a_large_download_is_told_with_its_size(runs):
    outcome = runs(constants={("core.patience", "LARGE"): 100})
    assert outcome.code == 0
    assert re.search(r"Downloading .*(safetensors|parquet), \d+ MiB \.\.\.", outcome.err)


def test_nothing_is_said_where_the_hub_is_quick(runs):
    assert runs().err == ""


# --- the token


def test_the_token_goes_to_the_hub_and_nowhere_else(runs):
    runs.fails_by(Fault("GET /.*NAME/resolve", 400))  # its body holds the token
    assert_refused(runs(), runs.name)
    assert f"Bearer {TOKEN}" in runs.place.hub.tokens
    written = [path for path in runs.place.root.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_token_that_cannot_be_sent_is_not_shown(runs):
    assert_refused(runs({"HF_TOKEN": f"{TOKEN}\x0cmore"}), "HF_TOKEN holds a character")


# --- bounds by themselves


def begins(bounds, *positions):
    for position in positions:
        headers = {"Range": f"bytes={position}-"} if position else {}
        request = httpx.Request("GET", "http://cdn/large.bin", headers=headers)
        bounds.before(request)
        bounds.after(httpx.Response(206, request=request))


def test_a_download_may_break_off_as_often_as_it_gets_further():
    begins(Patience(10), *range(0, 50 * patience.SMALL, patience.SMALL))


@pytest.mark.parametrize("position", [0, 7, 5 * patience.SMALL])
def test_a_download_that_gets_no_further_is_given_up(position):
    with pytest.raises(patience.CutShort):
        begins(Patience(10), 0, *[position] * (patience.RESUMES + 2))


def test_reading_blocks_of_a_file_is_no_broken_download():
    bounds = Patience(10)
    for block in range(9):
        headers = {"Range": f"bytes={block}-{block + 1}"}
        bounds.before(httpx.Request("GET", "http://hub/org/x/resolve/main/y", headers=headers))
        bounds.waiting.clear()


@pytest.mark.parametrize("asked", [None, 1, 60, 10_000])
def test_no_request_waits_longer_than_the_hubs_own_setting(asked):
    phases = ("connect", "read", "write", "pool")
    timeout = {"timeout": dict.fromkeys(phases, asked)}
    request = httpx.Request("GET", "http://hub/api/models/org/x", extensions=timeout)
    Patience(10).before(request)
    assert request.extensions["timeout"] == dict.fromkeys(phases, min(asked or 10, 10))


def test_one_host_in_trouble_does_not_count_against_another(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bounds = Patience(10)
    ask = [httpx.Request("GET", f"http://{host}/api/x") for host in ("statistics", "hub")]
    for request in ask:
        bounds.before(request)
    bounds.after(httpx.Response(200, request=ask[1]))
    now[0] = 6.0
    bounds.before(ask[1])
    with pytest.raises(patience.GivenUp):
        bounds.before(ask[0])


def test_a_hub_that_was_given_up_gets_another_chance_after_a_while(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bounds = Patience(10)
    request = httpx.Request("GET", "http://hub/api/x")
    bounds.before(request)
    for now[0] in (6.0, 7.0, 65.0):
        with pytest.raises(patience.GivenUp):
            bounds.before(request)
    now[0] = 67.0
    bounds.before(request)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refuses connections", "silent"])
def test_without_settings_a_hub_is_given_up_after_ten_seconds(runs, how):
    with unhelpful(runs, how):
        outcome = runs(constants={("huggingface_hub.constants", "HF_HUB_ETAG_TIMEOUT"): 10})
    assert_refused(outcome, "Waiting for the Hub", "is not in the cache")
    assert 5 < outcome.seconds < 14


# --- the smoke check

NO_SMOKE = {
    "absent": Fault("", 404, fake_hub.NO_REPO),
    "without the data set": Fault("GET /api/datasets", 404, fake_hub.NO_REPO),
    "gated": Fault("", 401, fake_hub.GATED),
    "limited": Fault("", 429, {"Retry-After": "3600"}),
    "broken": Fault("", 503),
    "silent": Fault("", pause=LONGEST),
    "a page for logging in": Fault("", 200, {"Content-Type": "text/html"}),
}


@pytest.fixture
def smoke(place, monkeypatch):
    """The fake Hub, with what test_debug.py asks for."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place.hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place.hub.repos[test_debug.HUB_MODEL] = place.model
    place.hub.repos[spec.builtin_tasks()[test_debug.HUB_TASK].source] = place.rows
    yield place.hub
    place.hub.faults.clear()


def test_the_smoke_check_takes_the_hub_that_offers_both(smoke):
    assert test_debug.hub_answers()


@pytest.mark.parametrize("trouble_of_hub", NO_SMOKE)
def test_the_smoke_check_goes_without_a_hub_that_does_not(smoke, trouble_of_hub):
    smoke.faults[:] = [Fault(**vars(NO_SMOKE[trouble_of_hub]))]
    started = monotonic()
    assert not test_debug.hub_answers(1)
    assert monotonic() - started < 3
