"""Chat templates as models have them: those that are fit for measuring, and those that are not."""

import copy

import tiny

from model import LanguageModel

MARKS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|channel|>", "<|message|>"]
MARKS += ["<|return|>", "[gMASK]", "<sop>"]
HISTORY = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
EACH = (
    "{{% for m in messages %}}{{% if m.role == 'user' %}}{user}{{% else %}}{assistant}"
    "{{% endif %}}{{% endfor %}}"
)


def form(user, assistant, prompt=""):
    """A template that writes users so, assistants so, and this as its generation prompt."""
    whole = EACH.format(user=user, assistant=assistant)
    return whole + f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"


def content(change):
    """The tiny template, which changes what is said."""
    return (HISTORY + PROMPT).replace("m.content", f"(m.content{change})")


USER, SAID = "<|im_start|>user\n{{ m.content }}<|im_end|>\n", "{{ m.content }}<|im_end|>\n"
CHATML = form(USER, "<|im_start|>assistant\n" + SAID, "<|im_start|>assistant\n")
LAST = (
    "{% set last = namespace(user=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
)
QWEN = LAST + form(
    USER,
    "<|im_start|>assistant\n{% if loop.index0 > last.user %}<think>\n\n</think>\n\n{% endif %}"
    + SAID,
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}",
)
QWEN_THINKING = QWEN.replace(
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}", "<think>\n"
)
R1 = "{{ bos_token }}" + form(
    "<|user|>{{ m.content }}",
    "<|assistant|>{{ m.content.split('</think>')[-1] }}<|end|>",
    "<|assistant|><think>\n",
)
QWQ = CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"
EXAONE = form("<|user|>{{ m.content }}\n", "<|assistant|>{{ m.content }}<|end|>\n",
              "<|assistant|><thought>\n")  # fmt: skip
HARMONY = "<|message|>{{ strftime_now('%Y-%m-%d') }}" + form(
    "<|user|><|message|>{{ m.content }}<|end|>",
    "<|assistant|><|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}",
    "<|assistant|>",
)
ROUNDS = form(
    "[Round {{ loop.index0 // 2 + 1 }}]\n\nQ: {{ m.content }}\n\nA:", " {{ m.content }}\n\n"
)
# name -> template, what the prompt gets behind its own end, what is scored before an answer, what
# ends an answer (the token, or the text)
FIT = {
    "ChatML": (CHATML, "", "", "<|im_end|>"),
    "ChatML with a default system line": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        + CHATML, "", "", "<|im_end|>",
    ),
    "ChatML, always the same": (
        CHATML.partition("{% if add")[0], "<|im_start|>assistant\n", "", "<|im_end|>",
    ),
    "Vicuna, always the same": (
        form("USER: {{ m.content }} ", "ASSISTANT: {{ m.content }}<|end|>"),
        "ASSISTANT:", " ", "<|end|>",
    ),
    "Vicuna without an end": (
        form("USER: {{ m.content }} ", "ASSISTANT: {{ m.content }} ", "ASSISTANT:"),
        "", " ", " USER:",
    ),
    "Llama 2": (
        form("{{ bos_token }}[INST] {{ m.content.strip() }} [/INST]",
             " {{ m.content.strip() }} <|end|>"), "", " ", "<|end|>",
    ),
    "Mistral": (
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) "
        "%}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
        + form("[INST] {{ m.content }}[/INST]", " {{ m.content }}<|end|>"), "", " ", "<|end|>",
    ),
    "Gemma": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + CHATML.replace("m.content", "m.content | trim"), "", "", "<|im_end|>",
    ),
    "Zephyr": (
        form("<|user|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n{{ m.content }}<|end|>\n",
             "<|assistant|>"), "", "\n", "<|end|>",
    ),
    "Phi 3": (
        form("<|user|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n{{ m.content }}<|end|>\n",
             "<|assistant|>\n") + "{% if not add_generation_prompt %}<s>{% endif %}",
        "", "", "<|end|>",
    ),
    "Alpaca": (
        form("### Instruction:\n{{ m.content }}\n\n", "### Response:\n{{ m.content }}\n\n",
             "### Response:\n"), "", "", "\n### Instruction:",
    ),
    "GLM": (
        "[gMASK]<sop>" + form("<|user|>\n{{ m.content }}",
        "<|assistant|>\n<think></think>\n{{ m.content }}",
        "<|assistant|>{{ '\n<think></think>' if not enable_thinking }}"), "", "\n", "<|user|>",
    ),
    "ChatGLM with rounds": (ROUNDS, "", " ", "\n[Round"),
    "Harmony": (HARMONY, "<|channel|>final<|message|>", "", "<|end|>"),
    "tools": ("{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML, "", "", "<|im_end|>"),
    "answers in tags": (
        form("<|user|>{{ m.content }}<|end|>",
             "<|assistant|><answer>{{ m.content }}</answer><|end|>", "<|assistant|>"),
        "<answer>", "", "</answer>",
    ),
    "an end that is no token": (
        CHATML.replace("<|im_end|>", "<|fim_turn|>"), "", "", "<|fim_turn|>",
    ),
}  # fmt: skip
CHANGED = "leaves out or changes a message"
UNFIT = {
    "the last turn alone": ("<|user|>{{ messages[-1].content }}<|end|><|assistant|>", CHANGED),
    "the last three messages": (HISTORY.replace("messages", "messages[-3:]") + PROMPT, CHANGED),
    "users alone": (
        HISTORY.replace("in messages", "in messages if m.role == 'user'") + PROMPT, CHANGED,
    ),
    "the turns backwards": (HISTORY.replace("messages", "messages | reverse") + PROMPT, CHANGED),
    "lower case": (content(" | lower"), CHANGED),
    "no empty lines": (content(".replace('\n\n', '\n')"), CHANGED),
    "one space for two": (content(".split() | join(' ')"), CHANGED),
    "HTML": (content(" | e"), CHANGED),
    "JSON": (content(" | tojson"), CHANGED),
    "beginnings of texts": (content("[:30]"), CHANGED),
    "capitals for answers": (
        form("<|user|>{{ m.content }}", "<|assistant|>{{ m.content | upper }}", "<|assistant|>"),
        CHANGED,
    ),
    "parts of messages": (
        form("{% for part in m.content %}{{ part.text }}{% endfor %}", "{{ m.content }}"), CHANGED,
    ),
    "keys of another library": ("{% for m in messages %}{{ m['value'] }}{% endfor %}", CHANGED),
    "a text at random": ("{{ range(10 ** 5) | random }}" + HISTORY + PROMPT, "at another call"),
    "an answer's letter before it": (
        form("<|user|>{{ m.content }}", "<|assistant|>{{ m.content[0] }}: {{ m.content }}<|end|>",
             "<|assistant|>"), "other texts before other answers",
    ),
    "the number of messages": (
        HISTORY + PROMPT.replace("{% endif", "({{ messages | length }}){% endif"), "ends a prompt",
    ),
    "a beginning that no history shows": (
        HISTORY + PROMPT.replace("{% endif", "Sure: {% endif"), "ends a prompt",
    ),
    "a system line at zero turns alone": (
        "{% if messages | length == 1 %}Be kind.{% endif %}" + HISTORY + PROMPT, "earlier turns",
    ),
    "nothing behind an answer": (form("{{ m.content }} ", "{{ m.content }} "), "would end"),
    "a full stop behind an answer": (
        form("<|user|>{{ m.content }}", "<|assistant|>{{ m.content }}.<|end|>", "<|assistant|>"),
        "does not tell that it is over",
    ),
    "a system message alone": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}",
        "does not take the conversation",
    ),
}  # fmt: skip


def tokenizer_with(template=None, marks=MARKS):
    """The tiny tokenizer with more marks and this template."""
    found = copy.deepcopy(tiny.tokenizer(chat=False))
    found.add_special_tokens(
        {"additional_special_tokens": list(marks)}, replace_extra_special_tokens=False
    )
    found.chat_template = template
    return found


def subject(template, marks=MARKS, **settings):
    tokenizer = tokenizer_with(template, marks)
    return LanguageModel(tiny.model("llama"), tokenizer, engine="plain", lens=None, **settings)
