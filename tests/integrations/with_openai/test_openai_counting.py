"""Token counts by the target's own tokenizer, from what is on this machine already."""

import hashlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from openai_icl import KnownModel, _extra, encodings
from openai_icl.counters import ESTIMATE_MARGIN, OpenAIChat, TemplatedChat
from tiktoken import registry
from tokenizers import Tokenizer

from icl_plugins import Pool, Template
from icl_plugins.errors import BudgetError, OptionalDependencyError, ProxyError, SettingError

MESSAGES = [
    {"role": "system", "content": "Name the intent."},
    {"role": "user", "content": "Query: déjà vu 中文 {x} <|endoftext|>\nIntent:"},
    {"role": "assistant", "content": "card_arrival"},
    {"role": "user", "content": "Query: 12,345.67 is wrong  \n\nIntent:"},
]


def file_of(name):
    """The file name under which tiktoken keeps a token table."""
    return hashlib.sha1(encodings._URL.format(name).encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def forgotten(monkeypatch):
    """Encodings that have to be loaded anew, and no network."""

    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(registry, "ENCODINGS", {})
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    encodings.load_encoding.cache_clear()
    yield
    encodings.load_encoding.cache_clear()


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "gpt-4", "gpt-3.5-turbo", "o3"])
def test_counts_are_those_of_an_independent_counter(model, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", exc_type=ImportError)
    assert KnownModel.of(model).count(MESSAGES) == litellm.token_counter(model=model, messages=MESSAGES)


def test_every_message_and_the_reply_take_what_the_chat_format_puts_around_them():
    count = KnownModel.of("gpt-4o-mini").count
    assert count([]) == 3
    assert count([{"role": "user", "content": ""}]) == 3 + 4
    assert count(MESSAGES) - count(MESSAGES[:-1]) == count(MESSAGES[-1:]) - count([])


@pytest.mark.parametrize(("name", "token"), [("o200k_base", 24912), ("cl100k_base", 15339)])
def test_an_encoding_is_loaded_without_network_and_leaves_the_environment_alone(
    forgotten, name, token, monkeypatch, tmp_path
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert encodings.load_encoding(name).encode_ordinary("hello") == [token]
    assert encodings.os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_passed_over_and_left_where_it_is(forgotten, monkeypatch, tmp_path):
    damaged = tmp_path / file_of("o200k_base")
    damaged.write_bytes(b"aGVsbG8= 0\n")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert encodings.load_encoding("o200k_base").n_vocab > 200_000
    assert damaged.read_bytes() == b"aGVsbG8= 0\n"


def test_without_an_intact_copy_the_error_says_where_one_is_looked_for(forgotten, monkeypatch, tmp_path):
    name = file_of("o200k_base")
    (tmp_path / name).write_bytes(b"damaged")
    monkeypatch.setattr(encodings, "_folders", lambda file: iter([tmp_path]))
    with pytest.raises(OptionalDependencyError, match=f"no intact copy.*{name}.*pip install"):
        KnownModel.of("gpt-4o-mini").count([{"role": "user", "content": str(tmp_path)}])


def test_a_copy_of_ones_own_is_enough(forgotten, monkeypatch, tmp_path):
    name = file_of("cl100k_base")
    shutil.copy(_extra.litellm_file(f"litellm_core_utils/tokenizers/{name}"), tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(encodings, "litellm_file", lambda _: pytest.fail("not needed"))
    assert encodings.load_encoding("cl100k_base").name == "cl100k_base"


@pytest.mark.parametrize("package", ["tiktoken", "litellm"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(package):
    code = (
        "import sys, importlib.util as u\n"
        f"find = u.find_spec\n"
        f"u.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        f"sys.modules[{package!r}] = None\n"
        "from icl_plugins.errors import OptionalDependencyError\n"
        "try:\n    from openai_icl import KnownModel; KnownModel.of('gpt-4o-mini')\n"
        "except OptionalDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"no {package}" in done.stdout and "pip install 'icl-plugins[openai]'" in done.stdout


def test_importing_the_package_imports_no_client_and_no_model_library():
    code = "import openai_icl, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"openai", "litellm", "torch", "transformers"}.isdisjoint(done.stdout.split())


# --- which tokenizer counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "counter"),
    [
        ("gpt-4o-mini", "gpt-4o-mini", OpenAIChat("o200k_base")),
        ("openai/gpt-4o-mini", "gpt-4o-mini", OpenAIChat("o200k_base")),
        ("openai:gpt-4o-mini", "gpt-4o-mini", OpenAIChat("o200k_base")),
        ("azure/gpt-4o-mini", "azure/gpt-4o-mini", OpenAIChat("o200k_base")),
        ("gpt-4", "gpt-4", OpenAIChat("cl100k_base")),
        ("deepseek/deepseek-chat", "deepseek/deepseek-chat", OpenAIChat("o200k_base", ESTIMATE_MARGIN)),
        ("deepseek:deepseek-chat", "deepseek-chat", OpenAIChat("o200k_base", ESTIMATE_MARGIN)),
    ],
)
def test_a_model_is_found_as_frameworks_write_it(model, name, counter):
    target = KnownModel.of(model)
    assert (target.name, target.counter) == (name, counter)
    assert target.context == (8192 if name == "gpt-4" else 131072 if "deepseek" in name else 128000)


def test_a_context_of_0_in_the_table_is_an_unknown_one(monkeypatch):
    row = {"mode": "chat", "max_input_tokens": 0}
    monkeypatch.setattr("openai_icl.table._chat_models", lambda: {"some/model": row})
    assert KnownModel.of("some/model").context is None


def test_an_estimate_covers_other_tokenizers_within_its_margin():
    """Against tokenizers of other models that are here: Claude's old one and cl100k_base."""
    claude = Tokenizer.from_file(
        str(_extra.litellm_file("litellm_core_utils/tokenizers/anthropic_tokenizer.json"))
    )
    folder = Path(__file__).parents[3] / "icl_plugins/data/banking77.jsonl"
    pool = Pool.from_file(folder, Template("Query: {text}\nIntent:", " {label}"))
    text = "\n\n".join(pool.texts[:300])
    estimated = len(encodings.load_encoding("o200k_base").encode_ordinary(text))
    for count in (
        len(claude.encode(text).ids),
        len(encodings.load_encoding("cl100k_base").encode_ordinary(text)),
    ):
        assert abs(count / estimated - 1) <= ESTIMATE_MARGIN


def test_a_named_tokenizer_makes_the_count_of_any_model_exact():
    target = KnownModel.of("deepseek/deepseek-chat", tokenizer="micro")
    assert target.counter.margin == 0 and target.context == 131072
    assert target.count(MESSAGES) == KnownModel.of("micro").count(MESSAGES)
    assert target.at_most(MESSAGES) == target.count(MESSAGES)
    estimate = KnownModel.of("deepseek/deepseek-chat")
    assert estimate.at_most(MESSAGES) > estimate.count(MESSAGES)


@pytest.fixture
def chat_folder(tokenizer, tmp_path):
    """A tokenizer in a folder with the chat template that is asked for."""

    def make(template, **settings):
        tokenizer.save_pretrained(tmp_path)
        if template:
            (tmp_path / "chat_template.jinja").write_text(template)
        return str(tmp_path)

    return make


def test_a_local_model_counts_with_its_own_chat_template(chat_folder, tokenizer):
    folder = chat_folder("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}!")
    rendered = "".join(f"[{message['role']}] {message['content']}" for message in MESSAGES) + "!"
    target = KnownModel.of(folder)
    assert target.count(MESSAGES) == len(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    assert target.name == Path(folder).name and target.context is None and not target.row


def test_a_tokenizer_without_chat_template_is_refused(chat_folder):
    with pytest.raises(SettingError, match="no chat template"):
        KnownModel.of(chat_folder(None))


def test_messages_that_a_template_refuses_are_told(chat_folder):
    folder = chat_folder("{{ raise_exception('System role not supported') }}")
    with pytest.raises(SettingError, match="refuses messages of system, user, assistant.*single"):
        KnownModel.of(folder).count(MESSAGES)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "near"), [("gpt-4o-mni", "gpt-4o-mini"), ("deepseek/deepseek-chatt", "deepseek/deepseek-chat")]
)
def test_an_unknown_model_is_answered_with_near_names(model, near):
    with pytest.raises(SettingError, match=f"no model '{model}'.*{near}"):
        KnownModel.of(model)


@pytest.mark.parametrize("model", ["", None, "a", "nobody/knows-this", "text-embedding-3-small", "./nowhere"])
def test_what_is_no_chat_model_is_refused(model, forgotten):
    with pytest.raises(SettingError, match="no model"):
        KnownModel.of(model)


def test_a_tokenizer_that_is_not_here_is_not_looked_for_elsewhere(forgotten):
    with pytest.raises(ProxyError, match="nobody/knows-this"):
        KnownModel.of("gpt-4o-mini", tokenizer="nobody/knows-this")
    with pytest.raises(ProxyError, match="nobody/knows-this"):
        TemplatedChat.load("nobody/knows-this")


def test_a_prompt_beyond_the_context_is_refused():
    long = [{"role": "user", "content": "word " * 8300}]
    with pytest.raises(BudgetError, match="8192 of its context"):
        KnownModel.of("gpt-4").check_fits(long)
    fits = [{"role": "user", "content": "word " * 8000}]
    KnownModel.of("gpt-4").check_fits(fits)
    with pytest.raises(BudgetError):
        KnownModel.of("gpt-4").check_fits(fits, answer=400)
