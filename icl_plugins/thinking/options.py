"""Options of transformers' generate that mean the same behind a state, whose tokens it does not see."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.local import end_tokens as named_ends

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_LENGTHS = ("max_new_tokens", "min_new_tokens", "max_time", "eos_token_id", "forced_eos_token_id")
_SAMPLING = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
_BEAMS = ("num_beams", "num_return_sequences", "length_penalty", "early_stopping")
_PENALTIES = (
    *("repetition_penalty", "no_repeat_ngram_size", "exponential_decay_length_penalty", "bad_words_ids"),
    *("sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("renormalize_logits", "remove_invalid_values"),
)
OBJECTS = ("logits_processor", "stopping_criteria")
OPTIONS = frozenset((*_LENGTHS, *_SAMPLING, *_BEAMS, *_PENALTIES, *OBJECTS))


def check_options(
    options: Mapping[str, Any], *, one_text: bool = False, streamed: bool = False
) -> dict[str, Any]:
    """Return the options; raises SettingError for one that cannot be, or that means another thing here."""
    for name in sorted(options.keys() - OPTIONS):
        raise SettingError(
            f"the option {name!r}",
            expected=f"options that hold behind a state: {', '.join(sorted(OPTIONS))}",
            fix="leave it out" if name != "max_length" else "pass max_new_tokens",
        )
    whole_number("max_new_tokens", options.get("max_new_tokens"), 1)
    for name, fixed in (("num_beams", streamed), ("num_return_sequences", one_text or streamed)):
        if whole_number(name, options.get(name, 1), 1) > 1 and fixed:
            what = "a stream" if streamed else "one answer"
            raise SettingError(f"{name}={options[name]} for {what}", expected="1", fix="use KVState.generate")
    given = {name: value for name, value in options.items() if name not in OBJECTS}
    try:
        generation_config(given).validate(strict=True)
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"options that transformers refuses: {error}"[:400],
            expected="options that go together",
            fix="correct or leave out what it names",
        ) from error
    return dict(options)


def generation_config(options: Mapping[str, Any]) -> Any:
    """Return transformers' object of these options and no others."""
    from transformers import GenerationConfig

    kind: Any = GenerationConfig
    return kind(**options)


def end_tokens(proxy: "Proxy", options: Mapping[str, Any]) -> list[int]:
    """Return the tokens that end an answer: those asked for, else the model's and the tokenizer's."""
    asked = options.get("eos_token_id")
    if asked is not None:
        return [asked] if isinstance(asked, int) else list(asked)
    return sorted(named_ends(proxy))
