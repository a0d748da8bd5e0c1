"""The prefix tree holds every sequence once and is run parents first, for any set of sequences."""

from hypothesis import given
from hypothesis import strategies as st

from lm.prefix_tree import MASKED, PrefixTree, common_length, run_together

# Few different tokens, so that sequences share beginnings, are nested in one another, or are equal.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=12).map(tuple), min_size=1, max_size=12)
BUDGETS = st.integers(1, 60)


def forwards(tree, budget, forward_cost, level=False, shared=False):
    """The paths of a tree in the batches in which they are run."""
    waiting = tree.in_order()
    while waiting:
        count, size = run_together(waiting, budget, forward_cost, level=level, shared=shared)
        yield waiting[:count], size
        del waiting[:count]


@given(SEQUENCES)
def test_every_sequence_can_be_read_back_from_its_node(sequences):
    tree = PrefixTree(sequences)
    token = {path.first + i: t for path in tree.paths for i, t in enumerate(path.tokens)}
    for sequence in sequences:
        lineage = tree.lineage(tree.node_of(sequence))
        assert tuple(token[node] for node in lineage) == sequence


@given(SEQUENCES)
def test_the_pieces_of_a_lineage_are_its_nodes_path_by_path(sequences):
    tree = PrefixTree(sequences)
    for sequence in sequences:
        node = tree.node_of(sequence)
        pieces = tree.pieces(node)
        assert [each for piece in pieces for each in piece] == tree.lineage(node)
        assert [tree.path_of(piece.start).first for piece in pieces] == [p.start for p in pieces]


@given(SEQUENCES)
def test_nodes_are_the_distinct_prefixes(sequences):
    prefixes = {sequence[:k] for sequence in sequences for k in range(1, len(sequence) + 1)}
    tree = PrefixTree(sequences)
    assert tree.size == len(prefixes)
    assert len({tree.node_of(prefix) for prefix in prefixes}) == len(prefixes)


@given(SEQUENCES, BUDGETS, st.floats(0, 100))
def test_every_path_runs_once_after_its_ancestors(sequences, budget, forward_cost):
    tree = PrefixTree(sequences)
    done: set[int] = set()
    for batch, _ in forwards(tree, budget, forward_cost):
        for path in batch:
            assert set(tree.lineage(path.parent)) <= done
        nodes = [path.first + i for path in batch for i in range(len(path.tokens))]
        assert done.isdisjoint(nodes)
        done.update(nodes)
    assert done == set(range(tree.size))


@given(SEQUENCES, BUDGETS, st.floats(0, 100), st.booleans(), st.booleans())
def test_batches_keep_within_the_budget_and_level_where_they_must(
    sequences, budget, cost, level, shared
):
    for batch, size in forwards(PrefixTree(sequences), budget, cost, level, shared):
        past = max(p.depth for p in batch)
        width = (past // MASKED if shared else past) + max(len(p.tokens) for p in batch)
        assert size == len(batch) * width
        assert len(batch) == 1 or size <= budget
        assert not level or len({path.depth for path in batch}) == 1


@given(SEQUENCES)
def test_the_longest_sequence_is_the_first_path(sequences):
    longest = max(map(len, sequences))
    tree = PrefixTree(sequences)
    assert tree.paths == [] if longest == 0 else len(tree.paths[0].tokens) == longest


def test_a_history_is_held_once_for_all_its_prompts():
    history, targets = tuple(range(100, 150)), [(1, 2, 3), (4, 5, 6)]
    prompts = [history[:h] + target for h in (0, 10, 50) for target in targets]
    assert PrefixTree(prompts).size == len(history) + 3 * 2 * 3


def test_common_length_stops_at_the_first_difference():
    assert common_length((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common_length((1, 2), (1, 2, 3)) == 2
    assert common_length((), (1,)) == 0
