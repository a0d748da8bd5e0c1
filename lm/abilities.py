"""What a server can tell of likelihood, proved by asking it something known. No torch.

Servers take settings that they ignore (llama-server takes `echo` and does nothing), so nothing is
believed from a name or a version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from lm.client import Client

REFUSALS = (400, 403, 405, 422, 501)  # a request that a server does not serve
NO_PAGE = 404  # of the protocol, where the model is known to be there
KNOWN = "The capital of France is"  # goes on with ` Paris`, whatever the model
ASKED = [{"role": "user", "content": "Say the letter A and nothing else."}]


@dataclass(frozen=True)
class Ability:
    """Something that a server does, or why it does not."""

    there: bool
    why: str | None = None


@dataclass(frozen=True)
class Abilities:
    """A server as the probe found it."""

    kind: str | None  # vllm, llama.cpp, ...; None where it does not tell
    version: str | None
    model: str  # as the server names it
    context: int | None  # tokens, where it tells
    first_token: Ability
    prompt_logprobs: Ability

    def describe(self) -> dict[str, Any]:
        """For `environment.server` of a result."""
        able = {"first_token": self.first_token, "prompt_logprobs": self.prompt_logprobs}
        return {
            "kind": self.kind,
            "version": self.version,
            "model": self.model,
            "can": {name: each.there for name, each in able.items()} | {"generate": True},
            "cannot": {name: each.why for name, each in able.items() if not each.there},
        }


def find_abilities(client: Client, form: str) -> Abilities:
    """What a server is and does, by asking it; UserError where it does not even answer."""
    entry = _entry(client)
    kind, version = _identity(client, entry)
    return Abilities(
        kind,
        version,
        str(entry.get("id", client.model)),
        entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx"),
        _first_token(client, form),
        _prompt_logprobs(client, form),
    )


def _entry(client: Client) -> dict[str, Any]:
    """What the server says of the model; of its only one where names do not matter to it."""
    named = {str(each.get("id")): each for each in client.models()}
    if client.model not in named and len(named) > 1:
        raise UserError(
            f"the server at {client.place} has no model '{client.model}'. "
            f"It has: {', '.join(sorted(named))[:300]}."
        )
    return named.get(client.model) or next(iter(named.values()), {})


def _identity(client: Client, entry: dict[str, Any]) -> tuple[str | None, str | None]:
    """Kind and version of a server, where it tells."""
    owner = str(entry.get("owned_by") or "") or None
    told = client.get("/version")
    if isinstance(told, dict) and told.get("version"):
        kind = owner if owner in ("vllm", "sglang") else "ollama" if owner == "library" else owner
        return kind, str(told["version"])
    told = client.get("/props")
    if isinstance(told, dict) and "build_info" in told:
        return "llama.cpp", str(told["build_info"])
    return ("llama.cpp" if owner == "llamacpp" else owner), None


def _first_token(client: Client, form: str) -> Ability:
    try:
        reply = (
            client.complete(KNOWN, 1, logprobs=True)
            if form == "plain"
            else client.chat(ASKED, 1, logprobs=True)
        )
    except UserError as error:
        if not _is_refusal(error):
            raise
        return Ability(False, "it refuses to give log-probabilities")
    if len(reply.top) < 2:
        return Ability(False, "it gives no log-probabilities of likely tokens")
    if any(logprob > 1e-6 for _, logprob in reply.top):
        return Ability(False, "what it gives as log-probabilities are none")
    return Ability(True)


def _prompt_logprobs(client: Client, form: str) -> Ability:
    """Does the server score a text that it is given? Two answers must differ where they should."""
    try:
        if form == "plain":
            rows = [client.read_text(f"{KNOWN} {word}") for word in ("Paris", "spoon")]
        else:
            rows = [client.read_chat(ASKED, word) for word in ("A", "spoon")]
    except UserError as error:
        if not _is_refusal(error, NO_PAGE):
            raise
        return Ability(False, "it refuses to score a prompt")
    if not all(rows):
        asked = "echo" if form == "plain" else "prompt_logprobs"
        return Ability(False, f"it takes `{asked}` and does not act on it")
    likely, unlikely = (sum(logprob for _, logprob in row) for row in rows)
    if not likely > unlikely or max(logprob for row in rows for _, logprob in row) > 1e-6:
        return Ability(False, "what it gives for a prompt are no log-probabilities")
    return Ability(True)


def _is_refusal(error: UserError, *more: int) -> bool:
    """Does the server say no to this request, while it is there?"""
    return getattr(error.__cause__, "status_code", None) in (*REFUSALS, *more)


def first_tokens(client: Client, shown: Sequence[str]) -> list[str] | str:
    """Texts of the first token of each label as the server cuts it, all different; or why not."""
    found = []
    for text in shown:
        pieces = _pieces(client, text) or _written(client, text)
        if not pieces:
            return f"how it cuts '{text.strip()}' into tokens is not known"
        found.append(pieces)
    if len(set(found)) < len(found):
        return "some labels begin with the same token"
    return found


def _pieces(client: Client, text: str) -> str | None:
    """The first token of a text by the server's own tokenizer, where it has a page for that."""
    told = client.get("/tokenize", {"content": text, "with_pieces": True, "model": client.model,
                                    "prompt": text, "add_special_tokens": False,
                                    "return_token_strs": True})  # fmt: skip
    if not isinstance(told, dict):
        return None
    tokens, texts = told.get("tokens") or [], told.get("token_strs")
    if texts:
        return str(texts[0]).replace("\u0120", " ").replace("\u2581", " ")
    if tokens and isinstance(tokens[0], dict):
        return str(tokens[0].get("piece") or "") or None
    return None


def _written(client: Client, text: str) -> str | None:
    """The first token with which the server itself writes a text, asked to repeat it."""
    asked = f"Repeat the text between the marks, and nothing else.\n<<{text.strip()}>>"
    reply = client.chat([{"role": "user", "content": asked}], 1, logprobs=True)
    token = reply.top[0][0] if reply.top else ""
    return token if token and text.strip().startswith(token.strip()) else None
