"""What a trainset offers to each predictor of a program, and what cannot be used at all."""

import inspect
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import dspy

from dspy_icl.rendering import REASONING
from icl_plugins.errors import DataError, SettingError

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


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


def only_teacher(teacher: Any) -> Any:
    """Return the teacher or None; BetterTogether passes it in a list. SettingError for what is no program."""
    teachers = teacher if isinstance(teacher, list | tuple) else [teacher]
    if len(teachers) != 1:
        raise SettingError(f"{len(teachers)} teachers", expected="one, or none", fix="pass one program")
    if teachers[0] is not None and not isinstance(teachers[0], dspy.Module):
        raise SettingError(
            f"a teacher of type {type(teachers[0]).__name__}",
            expected="a dspy.Module with LMs of its own",
            fix="teacher = student.deepcopy(); teacher.set_lm(dspy.LM(...))",
        )
    return teachers[0]


def check_teacher(teacher: Any, student: Any, made: Mapping[str, Sequence[str]]) -> None:
    """Raise SettingError unless the teacher has the student's predictors, with the same fields, and an LM."""
    predictors = dict(teacher.named_predictors())
    for name, predictor in student.named_predictors():
        fields = list(predictor.signature.fields)
        if name not in predictors or list(predictors[name].signature.fields) != fields:
            raise SettingError(
                f"a teacher without a predictor {name!r} of the fields {', '.join(fields)}",
                expected="a teacher of the student's structure",
                fix="make it of the same class, or leave it out",
            )
    wanted = "; ".join(f"{_quoted(fields)} of predictor {name!r}" for name, fields in made.items() if fields)
    if dspy.settings.lm is None and not all(predictor.lm for predictor in predictors.values()):
        raise SettingError(
            f"no LM to run the program with, to make {wanted}",
            expected="an LM, since the trainset does not have all fields of every predictor",
            fix="dspy.configure(lm=...), program.set_lm(...), or correct and fill in the fields",
        )


def check_inputs(program: Any, trainset: Sequence[Any]) -> None:
    """Raise DataError for inputs of the program that no example has, as far as the program names them."""
    offered = {name for example in trainset for name in example.inputs()}
    if missing := [name for name in _needed(program, offered) if name not in offered]:
        raise DataError(
            f"no example of the trainset has the input {_quoted(missing)} of {type(program).__name__}",
            expected=f"the program's inputs among those of the examples: {_quoted(sorted(offered))}",
            fix="rename one of the two, and name the inputs in with_inputs(...)",
        )


def check_outputs(program: Any, trainset: Sequence[Any], made: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError for outputs of a program's only predictor that no example has: rather a slip."""
    predictors = program.named_predictors()
    name, predictor = predictors[0]
    outputs = [field for field in made[name] if field in predictor.signature.output_fields]
    if len(predictors) == 1 and (missing := [field for field in outputs if field != REASONING]):
        raise DataError(
            f"no example of the trainset has the output {_quoted(missing)} of predictor {name!r}",
            expected=f"its outputs among the fields of the examples: {_quoted(trainset[0].keys())}",
            fix="correct the name; or pass a metric, a teacher or bootstrap=True to have it made",
        )


def fields_to_make(
    name: str, signature: Any, trainset: Sequence[Any], bootstrap: bool | None
) -> Sequence[str]:
    """Return which fields runs have to make of a predictor: none if the trainset's labels suffice.

    They do if all fields of the signature are there, in every example; also if all that is missing is
    ChainOfThought's reasoning, or if `bootstrap` is False and there are some inputs and outputs. Then all
    demonstrations lack the same. Raises DataError for a field that only some examples have, and for
    labels that do not make a demonstration where `bootstrap` is False.
    """
    if bootstrap:
        return list(signature.output_fields)
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
        return ()
    if bootstrap is None:
        return list(missing)
    if all(set(fields) - set(missing) for fields in (signature.input_fields, signature.output_fields)):
        return ()
    raise DataError(
        f"the trainset has no {_quoted(missing)} for predictor {name!r}",
        expected="an input and an output of each predictor, where bootstrap is False",
        fix="label them, or leave bootstrap out to have them made by running the program",
    )


def _needed(program: Any, offered: Set[str]) -> list[str]:
    """Return the arguments of the program; where it takes any, what its only predictor must be given."""
    # of the class: instances warn of a look at forward
    parameters = list(inspect.signature(type(program).forward).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in _BY_NAME and p.default is p.empty]
    predictors = program.predictors()
    if len(predictors) != 1 or all(p.kind is not p.VAR_KEYWORD for p in parameters):
        return named
    fields = predictors[0].signature.input_fields
    # programs of one's own may retrieve the others
    if isinstance(program, dspy.Predict | dspy.ChainOfThought) or not offered & set(fields):
        return named + [name for name, field in fields.items() if field.is_required()]
    return named


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
