"""Small data sets in the Hub's layout, as `--data_root` reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MMLU, REVIEWS, TWEETS = "cais/mmlu", "cornell-movie-review-data/rotten_tomatoes", "ucsbnlp/tweet_qa"
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


def write_split(root: Path, source: str, split: str, rows: list[dict]) -> Path:
    """Write one split; mmlu keeps its files in the folder of its configuration, `all`."""
    folder = root / source / ("all" if source == MMLU else "data")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    if source == MMLU:
        splits = sorted(file.name.partition("-")[0] for file in folder.iterdir())
        files = "\n".join(f"  - split: {name}\n    path: all/{name}-*.parquet" for name in splits)
        card = f"---\nconfigs:\n- config_name: all\n  data_files:\n{files}\n---\n"
        (root / source / "README.md").write_text(card)
    return path


def write_all(root: Path) -> Path:
    """Write the three data sets with a few rows each; the test split of tweet_qa has no answers."""
    write_split(root, MMLU, "test", questions(8))
    write_split(root, MMLU, "validation", questions(4, "v"))
    reviews = [{"text": f"t{i}", "label": i % 2} for i in range(6)]
    for split in ("train", "validation", "test"):
        write_split(root, REVIEWS, split, reviews)
    write_split(root, TWEETS, "validation", tweets(5, [" a ", "b"]))
    write_split(root, TWEETS, "test", tweets(5, []))
    return root
