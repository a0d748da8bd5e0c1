"""Claims about what is set before torch is loaded, by whichever door, and while it is."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import core
from core.errors import UserError

ROOT = Path(__file__).parents[1]
SHOW = """
import os, sys
class Show:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            os._exit(0)
sys.meta_path.insert(0, Show())
sys.path[:0] = [".", "scripts"]
import %s
import torch
"""


@pytest.mark.parametrize("module", ["experiment", "model", "test_debug", "bench"])
@pytest.mark.parametrize(("set_by_user", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(module, set_by_user, found):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if set_by_user:
        environment["OMP_WAIT_POLICY"] = set_by_user
    command = [sys.executable, "-c", SHOW % module]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == found, done.stderr


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_is_looked_for_after_loading_as_before_it_also_where_loading_fails(was_on):
    was = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(UserError), core.without_collection():
            assert not gc.isenabled()
            raise UserError("no such model")
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if was else gc.disable)()
