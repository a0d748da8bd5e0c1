"""A Hub that misbehaves: a run ends well or in two plain lines, and uses nothing half."""

from itertools import count
from time import monotonic

import fake_hub
import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from fake_hub import Fault

import test_debug
from tasks import spec

BOUND = 50  # seconds of a run here on a busy machine; most take 1 to 7
NUMBERS = count()
TOKEN = "hf_aSecretThatNobodyMaySee"
TASK = """mine:
  source: {name}
  split: test
  prompt: "{{question}}"
  reference: answer
  labels: ["yes", "no"]
"""
KINDS = ("model", "rows")


class Place:
    """The fake Hub with its two good repositories, and the folders of the runs."""

    def __init__(self, hub, root):
        self.hub, self.root = hub, root
        self.cache = root / "home" / "hub"
        self.model, self.rows = tiny.save_model(root / "model"), root / "rows"
        (self.rows / "data").mkdir(parents=True)
        rows = [{"question": f"is {i} even?", "answer": ["yes", "no"][i % 2]} for i in range(40)]
        pq.write_table(pa.Table.from_pylist(rows), self.rows / "data/test-00000-of-00001.parquet")
        (self.rows / "README.md").write_text("# Rows\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with fake_hub.running() as hub:
        forked.start(
            {
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(root / "home"),
                "HF_TOKEN": TOKEN,
                "HF_HUB_ETAG_TIMEOUT": "2",
                "HF_HUB_DOWNLOAD_TIMEOUT": "1",
                "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # asks another host
                "TQDM_DISABLE": "1",
            }
        )
        yield Place(hub, root)


class Runs:
    """Runs that want one repository of the fake Hub, each time in the same words."""

    def __init__(self, place: Place, kind: str):
        name = f"{kind}-{next(NUMBERS)}x"  # none is the beginning of another
        self.place, self.kind, self.name = place, kind, f"org/{name}"
        self.folder = place.root / name
        place.hub.repos[self.name] = getattr(place, kind)
        self.count = 0

    @property
    def cached(self):
        plural = {"model": "models", "rows": "datasets"}[self.kind]
        return self.place.cache / f"{plural}--{self.name.replace('/', '--')}"

    def suffer(self, match="", *arguments, **settings) -> None:
        """A fault in the requests for this repository that match, in the place of the last one."""
        match = match.replace("NAME", self.name) or f"{self.name}(?![0-9])"
        self.place.hub.faults[:] = [Fault(match, *arguments, **settings)]

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
        assert outcome.seconds < BOUND
        return outcome

    def log(self) -> bytes:
        """The log of the last run."""
        [log] = (self.folder / str(self.count)).rglob("*_debug.json")
        return log.read_bytes()

    def result(self) -> bytes:
        """The result of the last run."""
        [result] = (self.folder / str(self.count)).rglob("*_test.json")
        return result.read_bytes()


@pytest.fixture(params=KINDS)
def runs(request, place):
    """Runs of a model or of rows that no other test has."""
    yield Runs(place, request.param)
    place.hub.faults.clear()


def assert_refused(outcome, *words):
    assert outcome.code == 2, outcome
    said = [line for line in outcome.err.splitlines() if not line.startswith("Fetching ")]
    assert said[0].startswith("error: ") and len(said) <= 2, outcome.err
    assert outcome.out == ""
    assert all(word in outcome.err for word in words), outcome.err


def assert_right(runs, outcome):
    assert outcome.code == 0, outcome.err
    source = getattr(runs.place, runs.kind)
    [snapshot] = (runs.cached / "snapshots").iterdir()
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.read_bytes() == (source / path.relative_to(snapshot)).read_bytes()


LASTING = {
    "gated": (("", 403, fake_hub.GATED), "accept its licence at https://huggingface.co/"),
    "absent": (("", 404, fake_hub.NO_REPO), "on the Hub that you can read"),
    "token refused": (("", 401, fake_hub.BAD_TOKEN), "does not accept your token"),
    "forbidden": (("", 403), "403 Forbidden"),
    "withheld": (("NAME/resolve/.*(generation_config.json|parquet|README)", 403), "403 Forbidden"),
}


@pytest.mark.parametrize("trouble", LASTING)
def test_lasting_trouble_is_two_plain_lines(runs, trouble):
    fault, words = LASTING[trouble]
    runs.suffer(*fault)
    assert_refused(runs(), words, runs.name)


def test_a_model_is_not_run_without_a_template_that_the_hub_withholds(place):
    runs = Runs(place, "model")
    runs.suffer("NAME/resolve/.*/chat_template.jinja$", 403)
    assert_refused(runs(), runs.name)
    place.hub.faults.clear()
    assert_right(runs, runs())


def test_files_that_break_off_are_refused_and_fetched_whole_later(runs):
    runs.suffer("GET /.*NAME/resolve.*(safetensors|parquet)", cut=True)
    assert_refused(runs(), runs.name)
    runs.place.hub.faults.clear()
    assert_right(runs, runs())


@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 503}], ids=["cut", "busy"])
def test_trouble_that_passes_is_overcome_with_every_byte_right(runs, fault):
    runs.suffer("GET /.*NAME/resolve.*(safetensors|parquet)", times=1, **fault)
    assert_right(runs, runs())


@pytest.mark.parametrize("how", ["offline", "refuses connections", "broken"])
def test_what_is_in_the_cache_needs_no_hub(runs, how):
    offline = {("huggingface_hub.constants", "HF_HUB_OFFLINE"): how == "offline"}
    offline |= {("datasets.config", "HF_HUB_OFFLINE"): how == "offline"}
    assert_right(runs, runs())
    log = runs.log()
    if how == "broken":
        runs.suffer("", 503)
        outcome = runs()
    else:
        with runs.place.hub.down():
            outcome = runs(constants=offline)
    assert outcome.code == 0, outcome.err
    assert runs.log() == log


def test_a_hub_that_cannot_be_reached_is_said_with_what_else_there_is(runs):
    with runs.place.hub.down():
        assert_refused(runs(), "cannot be reached", "HF_HUB_OFFLINE=1")


def test_a_hub_that_never_answers_is_not_waited_for_without_end(place):
    runs = Runs(place, "model")
    runs.suffer("", pause=fake_hub.LONGEST)
    assert_refused(runs(), "cannot be reached")
    place.hub.faults.clear()


@pytest.mark.parametrize(
    ("kind", "name"), [("model", "model.safetensors"), ("rows", "data/*.parquet")]
)
def test_a_file_cut_in_the_cache_is_refused(place, kind, name):
    runs = Runs(place, kind)
    assert_right(runs, runs())
    [path] = runs.cached.glob(f"snapshots/*/{name}")
    path.resolve().write_bytes(path.read_bytes()[:100])
    elsewhere = {("datasets.config", "HF_DATASETS_CACHE"): str(runs.folder)}
    assert_refused(runs(constants=elsewhere), runs.name, f"delete {runs.cached}")


def test_a_result_says_which_commit_of_the_hub_it_is_of(place):
    runs = Runs(place, "model")
    assert_right(runs, runs())
    assert f'"revision": "{fake_hub.COMMIT}"'.encode() in runs.result()


def test_the_token_goes_to_the_hub_and_nowhere_else(runs):
    runs.suffer("GET /.*NAME/resolve", 400)  # its body holds the token
    assert_refused(runs(), runs.name)
    assert f"Bearer {TOKEN}" in runs.place.hub.tokens
    written = [path for path in runs.place.root.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)


def test_a_token_that_cannot_be_sent_is_not_shown(runs):
    assert_refused(runs({"HF_TOKEN": f"{TOKEN}\x0cmore"}), "does not accept your token")


@pytest.mark.parametrize("status", [None, 404, 503])
def test_the_smoke_check_takes_a_hub_that_offers_model_and_rows(place, monkeypatch, status):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place.hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    place.hub.repos[test_debug.HUB_MODEL] = place.model
    place.hub.repos[spec.builtin_tasks()[test_debug.HUB_TASK].source] = place.rows
    place.hub.faults[:] = [Fault("GET /api/datasets", status)] if status else []
    started = monotonic()
    assert test_debug.hub_answers(1) == (status is None)
    assert monotonic() - started < 3
    place.hub.faults.clear()
