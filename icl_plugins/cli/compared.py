"""The target of a comparison and the room it has; openai_icl is imported only where chat messages count."""

from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from icl_plugins.checked import unknown_name
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.room import PlainTokens, Room, answer_tokens

if TYPE_CHECKING:
    from openai_icl import KnownModel

    from icl_plugins.evaluation.config import TargetConfig
    from icl_plugins.evaluation.datasets import DataSet
    from icl_plugins.evaluation.target import Target
    from icl_plugins.proxy.model import Proxy

_SECRET = "api_key"  # noqa: S105  # the name of a setting


def make_target(config: "TargetConfig") -> "Target":
    """Return the target of a config; raises SettingError for settings it does not have, ProxyError."""
    make: Any
    if config.kind == "local":
        from icl_plugins.evaluation.local import LocalTarget

        make, known = LocalTarget.load, [*signature(LocalTarget.load).parameters][1:]
    else:
        from openai_icl import ChatTarget

        make, known = (
            ChatTarget,
            [one.name for one in fields(ChatTarget) if one.name not in ("model", "known")],
        )
    if _SECRET in config.settings:
        raise SettingError(
            f"target.settings.{_SECRET} in the config",
            expected="no key in any file",
            fix="put it into an environment variable, and its name into api_key_env if it is another one",
        )
    for name in config.settings:
        if name not in known:
            raise unknown_name(f"target.settings.{name}", name, {*known} - {_SECRET}, "settings")
    target: Target = make(config.model, **config.settings)
    return target


def shared_proxy(config: "TargetConfig", target: "Target") -> "dict[str, Proxy]":
    """Return the model of a local target under its name, if a proxy of that name would be loaded alike."""
    alike = config.kind == "local" and not {"device", "dtype"} & {*config.settings}
    return {config.model: getattr(target, "proxy")} if alike else {}  # noqa: B009


def make_room(config: "TargetConfig", target: "Target", data: "DataSet") -> Room:
    """Return what counts a data set's requests to the target and how many tokens there may be.

    Raises SettingError where the target is not known and no tokenizer is named, or where nothing fits.
    """
    proxy: Any = getattr(target, "proxy", None)
    if proxy is not None and target.layout == "single":
        limit = min(proxy.max_length, config.context or proxy.max_length)
        return Room.of(PlainTokens.of(proxy.name, proxy.count_tokens, data), limit, data)
    from openai_icl import ChatTokens

    known = _known(config, proxy)
    tokens = ChatTokens(known, data.config.instruction, target.layout)

    def count(texts: Any) -> list[int]:
        return [known.at_most([{"role": "user", "content": text}]) for text in texts]

    context = min(filter(None, (known.context, config.context)), default=None)
    if context is not None:
        answer = answer_tokens(count, data, target.layout) if proxy is not None else data.config.max_tokens
        context -= answer + max(0, max(count(data.items.questions)) - max(count(data.pool.questions)))
    return Room.of(tokens, context, data)


def _known(config: "TargetConfig", proxy: Any) -> "KnownModel":
    """Return what is known of the target: of a local one its own tokenizer and context."""
    from openai_icl import KnownModel

    if proxy is not None:
        from openai_icl.counters import TemplatedChat

        return KnownModel(proxy.name, TemplatedChat(proxy.name, proxy.tokenizer), proxy.max_length)
    try:
        return KnownModel.of(config.model, config.tokenizer)
    except SettingError as error:
        if config.tokenizer is None:
            fix = "set target.tokenizer to the model's folder or Hugging Face id, and target.context"
            raise SettingError(f"target.model: {error.got}", expected=error.expected, fix=fix) from error
        return KnownModel.of(config.tokenizer)
