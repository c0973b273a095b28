"""Templates for people who only name the keys of their examples."""

from collections.abc import Iterable

from icl_plugins.errors import SettingError
from icl_plugins.template import Template

_SYNTAX = frozenset("{}[].:")


def plain_template(input_keys: Iterable[str], output_key: str) -> Template:
    """Return the template that puts each field on a line of its own, after its name.

    For ("title", "text") and "label" the demonstration reads "title: ...", "text: ...", "label: ...".
    Raises SettingError without keys, for a key that a template cannot name, and where the answer is also an
    input.
    """
    keys, _ = checked_keys(input_keys), checked_key(output_key)
    unnameable = [key for key in (*keys, output_key) if not key or _SYNTAX & set(key)]
    if not keys or unnameable or output_key in keys:
        raise SettingError(
            f"input_keys={list(keys)!r:.80} and output_key={output_key!r:.80}",
            expected="one input key at least, none of them the output key, without any of {}[].:",
            fix="correct the keys, or pass a Template",
        )
    question = "".join(f"{key}: {{{key}}}\n" for key in keys)
    return Template(question=f"{question}{output_key}:", answer=f" {{{output_key}}}")


def checked_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys as a tuple; raises SettingError unless they are a list of names."""
    names = () if isinstance(keys, str) else tuple(keys)
    if isinstance(keys, str) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"input_keys={keys!r:.80}", expected="a list of names", fix="put them in a list")
    return names


def checked_key(key: str | None) -> str | None:
    """Return the output key; raises SettingError unless it is a name or None."""
    if not (key is None or isinstance(key, str)):
        raise SettingError(f"output_key={key!r:.80}", expected="the name of a field", fix="pass one")
    return key
