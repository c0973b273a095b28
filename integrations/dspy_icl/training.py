"""What a trainset offers to each predictor of a program, and what cannot be used at all."""

from collections.abc import Sequence
from typing import Any

import dspy

from icl_plugins.errors import DataError, SettingError

_REASONING = "reasoning"  # of ChainOfThought: the one output that nobody labels


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


def check_examples(examples: Sequence[Any], name: str) -> None:
    """Raise DataError, naming the row, unless all are a dspy.Example that knows its inputs."""
    if name == "trainset" and not examples:
        raise DataError("an empty trainset", expected="labelled examples", fix="pass some")
    for row, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise DataError(
                f"{type(example).__name__} as example {row} of the {name}",
                expected="dspy.Example",
                fix="dspy.Example(**fields).with_inputs(...)",
            )
        if getattr(example, "_input_keys", None) is None:
            raise DataError(
                f"example {row} of the {name} does not say which of its fields are inputs",
                expected="examples made with with_inputs",
                fix=f"{name} = [example.with_inputs(...) for example in {name}]",
            )


def check_apart(trainset: Sequence[Any], valset: Sequence[Any]) -> None:
    """Raise DataError, naming both rows, if an example of the valset asks what one of the trainset does."""
    asked = {_asked(example): row for row, example in reversed(list(enumerate(trainset)))}
    for row, example in enumerate(valset):
        if _asked(example) in asked:
            raise DataError(
                f"example {row} of the valset has the inputs of example {asked[_asked(example)]} "
                f"of the trainset: {example.inputs().toDict()!r:.80}",
                expected="a valset apart from the trainset, or demonstrations give the answers away",
                fix="take the example out of one of the two",
            )


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
    if set(missing) <= {_REASONING} & set(signature.output_fields) and len(missing) < len(
        signature.output_fields
    ):
        return True
    if bootstrap is None:
        return False
    if all(set(fields) - set(missing) for fields in (signature.input_fields, signature.output_fields)):
        return True
    raise DataError(
        f"the trainset has no {', '.join(map(repr, missing))} for predictor {name!r}",
        expected="an input and an output of each predictor, where bootstrap is False",
        fix="label them, or leave bootstrap out to have them made by running the program",
    )


def _asked(example: Any) -> tuple[tuple[str, str], ...]:
    """Return the inputs by content, also of values that have no hash."""
    return tuple(sorted((name, repr(value)) for name, value in example.inputs().items()))
