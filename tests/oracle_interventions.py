"""Interventions a second time, by plain transformers: whole prompts, no cache, eager attention.

Shares no code with the toolkit. A prompt is a list of token ids. What is hidden is a list of
(queries, keys, blocks), each a range. The mask of every block is a full four-dimensional float mask
made here: causal, cut to the window of the block, and cut again where something is hidden.
"""

from contextlib import contextmanager

import torch


def blocks_of(model):
    depth = model.config.get_text_config().num_hidden_layers
    lists = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and "vision" not in name
    ]
    return lists[0]


def window_of(model, block):
    """Keys that a token sees, itself among them; None for all."""
    config = model.config.get_text_config()
    types = getattr(config, "layer_types", None)
    if types and types[block] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def mask_of(model, block, length, hidden):
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    window = window_of(model, block)
    if window:
        seen &= ~torch.ones(length, length, dtype=torch.bool).tril(-window)
    for queries, keys, blocks in hidden:
        if block in blocks:
            seen[queries.start : queries.stop, keys.start : keys.stop] = False
    if model.config.model_type == "mpt":  # takes no floats: true is hidden
        return ~seen[None, None]
    mask = torch.zeros(1, 1, length, length)
    return mask.masked_fill(~seen, torch.finfo(torch.float32).min)


@contextmanager
def eager(model):
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def changed(model, length, hidden, patches):
    """`patches` are (block, end, states): the states of as many tokens as end there."""

    def masking(block):
        def before(module, args, kwargs):
            mask = mask_of(model, block, length, hidden)
            if "attention_mask" in kwargs:
                return args, kwargs | {"attention_mask": mask}
            places = [
                k
                for k, arg in enumerate(args)
                if k and torch.is_tensor(arg) and arg.shape[-2:] == mask.shape[-2:]
            ]
            return tuple(mask if k in places else arg for k, arg in enumerate(args)), kwargs

        return before

    def patching(block):
        def after(module, args, output):
            state = output if torch.is_tensor(output) else output[0]
            for number, end, given in patches:
                if number == block:
                    state = state.clone()
                    state[0, end - len(given) : end] = given
            return state if torch.is_tensor(output) else (state, *output[1:])

        return after

    handles = []
    for number, block in enumerate(blocks_of(model)):
        handles.append(block.register_forward_pre_hook(masking(number), with_kwargs=True))
        handles.append(block.register_forward_hook(patching(number)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logprob(model, ids, start, hidden=(), patches=()):
    """Sum of log P of the tokens from `start` on."""
    with torch.no_grad(), eager(model), changed(model, len(ids), hidden, patches):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(logits[k - 1, ids[k]].item() for k in range(start, len(ids)))


def number(model, ids, answers, reference, hidden=(), patches=()):
    """Log-odds of the reference against the best other answer, or its log P where it is alone."""
    scores = {
        name: logprob(model, [*ids, *tokens], len(ids), hidden, patches)
        for name, tokens in answers.items()
    }
    others = [score for name, score in scores.items() if name != reference]
    return scores[reference] - max(others, default=0.0)


def states(model, ids):
    """What every block puts out, [L][T, D]."""
    found = []

    def keep(module, args, output):
        found.append((output if torch.is_tensor(output) else output[0])[0].clone())

    handles = [block.register_forward_hook(keep) for block in blocks_of(model)]
    with torch.no_grad(), eager(model):
        model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def attentions(model, ids):
    """Attention of the last token to every token, [L][heads, T]."""
    with torch.no_grad(), eager(model), changed(model, len(ids), (), ()):
        out = model(torch.tensor([ids]), use_cache=False, output_attentions=True)
    return [weights[0, :, -1] for weights in out.attentions]
