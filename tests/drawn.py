"""Rows of tasks as turns, and the cases that a plan draws from them."""

import data
from tasks.kinds import parse_kind
from tasks.spec import parse_spec


def rows(text, data_root=None):
    return data.load_rows(parse_spec(text), data_root)


REVIEWS = rows("reviews")
POSTS = rows("posts")
QUIZ = rows("quiz")


def plan(target, distractor, kind, max_len=6, limit=12):
    pair = data.Pair(target, distractor, parse_kind(kind))
    return [case for [case] in data.plan_cases([pair], max_len, [0], limit)]


def shown(case):
    return [past.turn.references[0] for past in case.history]
