"""What a trainset offers to each predictor of a program, and what cannot be used at all."""

from collections.abc import Iterable, Sequence
from typing import Any

import dspy

from dspy_icl.rendering import REASONING
from icl_plugins.errors import DataError, SettingError


def check_student(student: Any) -> None:
    """Raise SettingError for what is no program, or one without a predictor that may be changed."""
    if not isinstance(student, dspy.Module):
        raise SettingError(
            f"a student of type {type(student).__name__}", expected="a dspy.Module", fix="pass a program"
        )
    if not student.named_predictors():
        raise SettingError(
            f"{type(student).__name__} has no predictor to give demonstrations to",
            expected="a dspy.Predict in an attribute, outside of sub-modules frozen by _compiled=True",
            fix="create predictors in __init__, or unfreeze a sub-module",
        )


def examples_of(given: Any, name: str) -> list[Any]:
    """Return the examples as a list; DataError, naming the row, unless each has the inputs it names."""
    try:
        examples = list(() if given is None else given)
    except TypeError:
        raise DataError(
            f"{name}={given!r:.80}", expected="a list of dspy.Example", fix="pass a list"
        ) from None
    if name == "trainset" and not examples:
        raise DataError("an empty trainset", expected="labelled examples", fix="pass some")
    for row, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise DataError(
                f"{type(example).__name__} as example {row} of the {name}",
                expected="dspy.Example",
                fix="dspy.Example(**fields).with_inputs(...)",
            )
        if not (inputs := getattr(example, "_input_keys", None)):
            raise DataError(
                f"example {row} of the {name} does not say which of its fields are inputs",
                expected="examples made with with_inputs",
                fix=f"{name} = [example.with_inputs(...) for example in {name}]",
            )
        if absent := sorted(set(inputs) - set(example.keys())):
            raise DataError(
                f"example {row} of the {name} has no {_quoted(absent)}, which it names as input",
                expected=f"some of its fields: {_quoted(example.keys())}",
                fix="correct with_inputs(...), or fill the field in, be it with None",
            )
    return examples


def labels_suffice(name: str, signature: Any, trainset: Sequence[Any], bootstrap: bool | None) -> bool:
    """Say whether the trainset's own fields make demonstrations of a predictor; else they are bootstrapped.

    They do if all fields of the signature are there, in every example; also if all that is missing is
    ChainOfThought's reasoning, or if `bootstrap` is False and there are some inputs and outputs. Then all
    demonstrations lack the same. Raises DataError for a field that only some examples have, and for
    labels that do not make a demonstration where `bootstrap` is False.
    """
    if bootstrap:
        return False
    missing = {
        field: [row for row, e in enumerate(trainset) if e.get(field) is None] for field in signature.fields
    }
    missing = {field: rows for field, rows in missing.items() if rows}
    for field, rows in missing.items():
        if len(rows) < len(trainset):
            raise DataError(
                f"example {rows[0]} of the trainset lacks {field!r} of predictor {name!r}, which others have "
                f"({len(rows)} of {len(trainset)} lack it)",
                expected="demonstrations that are all complete, or all lack the same",
                fix="fill it in, leave these examples out, or pass bootstrap=True",
            )
    if set(missing) <= {REASONING} & set(signature.output_fields) and len(missing) < len(
        signature.output_fields
    ):
        return True
    if bootstrap is None:
        return False
    if all(set(fields) - set(missing) for fields in (signature.input_fields, signature.output_fields)):
        return True
    raise DataError(
        f"the trainset has no {_quoted(missing)} for predictor {name!r}",
        expected="an input and an output of each predictor, where bootstrap is False",
        fix="label them, or leave bootstrap out to have them made by running the program",
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
