"""Small data sets in the Hub's layout, as `--data_root` reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MMLU, REVIEWS, TWEETS = "cais/mmlu", "cornell-movie-review-data/rotten_tomatoes", "ucsbnlp/tweet_qa"
HEADLINES, NEWS, PROBLEMS = "SalmanFaroz/gigaword", "abisee/cnn_dailymail", "openai/gsm8k"
CONFIGS = {MMLU: "all", NEWS: "3.0.0", PROBLEMS: "main"}  # of data sets with more than one
SUBJECTS = ("anatomy", "astronomy")


def questions(count: int, name: str = "q") -> list[dict]:
    """Rows of mmlu, the subjects in turn."""
    return [
        {
            "question": f"{name}{i}?",
            "subject": SUBJECTS[i % 2],
            "choices": ["w", "x", "y", "z"],
            "answer": i % 4,
        }
        for i in range(count)
    ]


def tweets(count: int, answers: list[str]) -> list[dict]:
    """Rows of tweet_qa, all with these answers."""
    return [
        {"Question": f"q{i}?", "Answer": answers, "Tweet": f"t{i}", "qid": f"{i:04}"}
        for i in range(count)
    ]


def headlines(count: int) -> list[dict]:
    """Rows of gigaword."""
    return [{"article": f"s{i} .", "summary": f"h{i}"} for i in range(count)]


def news(count: int) -> list[dict]:
    """Rows of cnn_dailymail."""
    return [{"article": f"n{i}", "highlights": f"a{i} .\nb .", "id": f"{i}"} for i in range(count)]


def problems(count: int) -> list[dict]:
    """Rows of gsm8k."""
    answers = [f"{i} + 1000 = <<{i}+1000=1{i:03}>>1{i:03}\n#### 1,{i:03}" for i in range(count)]
    return [{"question": f"p{i}?", "answer": answer} for i, answer in enumerate(answers)]


def write_split(root: Path, source: str, split: str, rows: list[dict]) -> Path:
    """Write one split; a data set with configurations keeps its files in a folder of that name."""
    config = CONFIGS.get(source)
    folder = root / source / (config or "data")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    if config:
        splits = sorted(file.name.partition("-")[0] for file in folder.iterdir())
        paths = {name: f"{config}/{name}-*.parquet" for name in splits}
        files = "\n".join(f"  - split: {name}\n    path: {path}" for name, path in paths.items())
        card = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}\n---\n"
        (root / source / "README.md").write_text(card)
    return path


def write_all(root: Path) -> Path:
    """Write the data sets with a few rows each; the test split of tweet_qa has no answers."""
    write_split(root, MMLU, "test", questions(8))
    write_split(root, MMLU, "validation", questions(4, "v"))
    reviews = [{"text": f"t{i}", "label": i % 2} for i in range(6)]
    for split in ("train", "validation", "test"):
        write_split(root, REVIEWS, split, reviews)
    write_split(root, TWEETS, "validation", tweets(5, [" a ", "b"]))
    write_split(root, TWEETS, "test", tweets(5, []))
    for source, make in ((HEADLINES, headlines), (NEWS, news)):
        for split in ("train", "validation", "test"):
            write_split(root, source, split, make(5))
    for split in ("train", "test"):
        write_split(root, PROBLEMS, split, problems(5))
    return root
