"""Saving and loading LMs and programs whose engine stands behind a state."""

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
from weakref import WeakSet, ref

import dspy
import pytest
from dspy_icl import DeepThinkingEngine, LMTarget
from thinking_engines import ask, make_engine, make_lm, make_program

from icl_plugins import KVState, Proxy
from icl_plugins.errors import ArtefactError, ProxyError, SettingError
from icl_plugins.thinking.saving import STATE


@pytest.fixture(scope="module")
def proxy():
    return Proxy.load("micro")


@pytest.fixture(scope="module")
def engine(proxy):
    """An engine whose state lies nowhere."""
    return make_engine(proxy, steps=2)


@pytest.fixture(scope="module")
def saved(proxy, tmp_path_factory):
    """An engine whose state lies in a folder; of other demonstrations than `engine`."""
    return make_engine(proxy, demos=4, folder=tmp_path_factory.mktemp("states") / "state")


def test_an_lm_is_saved_as_json_without_weights_and_loaded_with_them(saved):
    lm = make_lm(saved, num_retries=0)
    state = lm.dump_state()
    assert len(json.dumps(state)) < 2000
    assert state["engine"]["state"] == {
        "folder": str(saved.folder),
        "model": "micro",
        "fingerprint": saved.state.fingerprint,
    }
    with pytest.raises(ValueError, match="Refusing to import custom serialized engine"):
        dspy.LM.load_state(state)
    loaded = dspy.LM.load_state(state, allow_custom_lm_class=True)
    assert loaded.engine is saved  # the weights are there once
    assert loaded._async_engine_spec.engine is saved
    assert loaded("hi") == lm("hi")


def test_a_saved_program_runs_in_a_fresh_process(saved, tmp_path):
    program = make_program(4)
    program.set_lm(make_lm(saved))
    program.save(tmp_path / "program.json")
    with pytest.raises(ValueError, match="allow_unsafe_lm_state"):
        make_program(0).load(tmp_path / "program.json")
    script = """
import dspy, sys
from dspy_programs import OneStage
program = OneStage()
program.load(sys.argv[1], allow_unsafe_lm_state=True)
lm = program.predictor.lm
assert lm.engine is lm._async_engine_spec.engine
program_only = lm("card card 7")
print(lm.model, repr(program_only[0]))
"""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "program.json")]
    run = subprocess.run(command, capture_output=True, text=True, env=paths, check=False)
    assert run.returncode == 0, run.stderr
    answer = make_lm(saved)("card card 7")[0]
    assert run.stdout.strip() == f"{saved.model_string} {answer!r}"


def test_pickles_hold_the_folder_and_no_weights(saved):
    data = pickle.dumps(make_lm(saved))
    assert len(data) < 5000
    assert pickle.loads(data).engine is saved  # noqa: S301


@pytest.mark.parametrize("kept", [True, False])
def test_an_engine_that_was_dropped_is_loaded_with_the_model_that_is_still_there(tmp_path, monkeypatch, kept):
    monkeypatch.setattr("dspy_icl.engine._live", WeakSet())
    monkeypatch.setattr("icl_plugins.thinking.living._live", WeakSet())
    proxy = Proxy.load("micro")
    engine = make_engine(proxy, demos=2, folder=tmp_path)
    state, name = engine.dump_state(), engine.model_string
    expected = engine.complete(ask(engine, "hi")).text
    other, here = make_engine(proxy, demos=3) if kept else None, ref(proxy)
    del engine, proxy
    gc.collect()
    assert (here() is not None) == kept == (other is not None)
    loaded = DeepThinkingEngine.load_state(state)
    assert (loaded.state.proxy is here()) == kept
    assert loaded.model_string == name
    assert loaded.complete(ask(loaded, "hi")).text == expected


def test_the_model_is_found_that_was_in_memory_without_an_engine(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("dspy_icl.engine._live", WeakSet())
    state = {**saved.dump_state(), "folder": str(tmp_path)}
    saved.state.save(tmp_path)
    assert DeepThinkingEngine.load_state(state).state.proxy is saved.state.proxy


def test_a_state_of_a_lower_precision_is_loaded_in_it(tmp_path, monkeypatch):
    engine = make_engine(Proxy.load("micro", dtype="bfloat16"), demos=2, folder=tmp_path)
    for module in ("dspy_icl.engine", "icl_plugins.thinking.living"):
        monkeypatch.setattr(f"{module}._live", WeakSet())
    loaded = DeepThinkingEngine.load_state(engine.dump_state())
    assert loaded.state.proxy is not engine.state.proxy
    assert str(loaded.state.proxy.dtype) == "torch.bfloat16"


def test_a_model_that_was_made_in_memory_is_asked_for_and_not_looked_for(proxy, tmp_path, monkeypatch):
    mine = Proxy.from_model(proxy.model, proxy.tokenizer, name="mine")
    state = make_engine(mine, demos=2, folder=tmp_path).dump_state()
    for module in ("dspy_icl.engine", "icl_plugins.thinking.living"):
        monkeypatch.setattr(f"{module}._live", WeakSet())
    monkeypatch.setattr("icl_plugins.proxy.model.load_checkpoint", lambda *_: pytest.fail("looked for"))
    with pytest.raises(ProxyError, match=r"pass model=, as to KVState\.load\(folder, model=proxy\)"):
        DeepThinkingEngine.load_state(state)
    again = DeepThinkingEngine(KVState.load(tmp_path, model=mine), tmp_path)
    assert DeepThinkingEngine.load_state(state) is again


def test_states_that_lie_in_no_folder_or_in_that_of_another_are_not_saved(engine, saved, tmp_path):
    wrong = DeepThinkingEngine(engine.state, saved.folder)
    for one in (engine, wrong, DeepThinkingEngine(engine.state, tmp_path / "nowhere")):
        with pytest.raises(ArtefactError, match="KVState.save|state.save"):
            make_lm(one).dump_state()
        with pytest.raises(ArtefactError):
            pickle.dumps(one)
    assert copy.deepcopy(wrong) is wrong


def test_a_folder_that_now_holds_another_state_is_refused(engine, proxy, tmp_path):
    first = make_engine(proxy, demos=3, folder=tmp_path)
    state = first.dump_state()
    del first
    engine.state.save(tmp_path)
    with pytest.raises(ArtefactError, match="another state"):
        DeepThinkingEngine.load_state(state)
    (tmp_path / STATE).unlink()
    with pytest.raises(ArtefactError, match="holds no state"):
        DeepThinkingEngine.load_state(state)


def test_a_loaded_state_makes_an_engine_of_the_same_name(saved):
    again = DeepThinkingEngine(KVState.load(saved.folder, saved.state.proxy), saved.folder)
    assert again.model_string == saved.model_string


@pytest.mark.filterwarnings("ignore:Passing OpenAI-style message:DeprecationWarning")
def test_an_lm_with_a_state_is_a_target_of_an_evaluation(engine, saved):
    messages = [{"role": "user", "content": "hi"}]
    (answer,) = LMTarget(make_lm(saved)).generate([messages], max_tokens=4)
    assert answer.text == saved.complete(ask(saved, "hi")).text
    with pytest.raises(SettingError, match="cannot save"):
        LMTarget(make_lm(engine))
    assert LMTarget(make_lm(engine), "a state").name == "a state"
