"""ICLExampleSelector: a selection of icl_plugins as LangChain's example selector."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Self

from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.runnables import run_in_executor

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import BudgetError, DataError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selection import Selection, Selector
from icl_plugins.template import Template
from langchain_icl.lazy import LazySelection, Renew
from langchain_icl.templates import checked_key, checked_keys, plain_template


class ICLExampleSelector(BaseExampleSelector):
    """The same demonstrations, in their chosen order, for every query.

    ``source``: a selection, a saved prompt, or a LazySelection, which alone takes more examples.
    ``input_keys``: variables that every call has to bring; what they hold decides nothing.
    Raises SettingError for another source.

    A subclass names the selector it stands for: ``class BM25ExampleSelector(ICLExampleSelector,
    method=BM25)``. Copies and pickles; a loaded proxy among the settings goes along.
    """

    method: ClassVar[Any] = None

    def __init_subclass__(cls, method: Any = None, **kwargs: Any) -> None:
        """Remember the selector's class."""
        super().__init_subclass__(**kwargs)
        cls.method = method or cls.method

    def __init__(
        self, source: Selection | ManyShotPrompt | LazySelection, *, input_keys: Iterable[str] = ()
    ) -> None:
        if not isinstance(source, Selection | ManyShotPrompt | LazySelection):
            raise SettingError(
                f"a selector made of a {type(source).__name__}",
                expected="a Selection, a ManyShotPrompt or a LazySelection",
                fix=f"make it of examples with {type(self).__name__}.from_examples(records, ...)",
            )
        self._source = source
        self.input_keys = checked_keys(input_keys)

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Mapping[str, object]],
        template: Template | None = None,
        *,
        input_keys: Iterable[str] | None = None,
        output_key: str | None = None,
        k: int | None = None,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        renew: Renew = "next_call",
        progress: bool = False,
        selector: Selector | None = None,
        **settings: Any,
    ) -> Self:
        """Choose ``k`` examples, or as many as ``max_tokens`` hold, when they are first asked for.

        ``template`` renders the examples for the method and the budget, the prompt they end up in may differ;
        without one it is ``plain_template(input_keys, output_key)``. ``output_key`` is also the label that
        ``quotas`` count. ``renew`` and ``progress``: see LazySelection. ``settings``: the method's own, such
        as ``seed`` or ``proxy``; ICLExampleSelector itself takes a ``selector`` instead.

        Raises DataError for examples that cannot be rendered, SettingError and BudgetError for the rest; a
        token budget that holds no example is found by the first call, which counts.
        """
        chooser = cls._selector(selector, settings)
        keys = checked_keys(input_keys or ())
        if template is None:
            template = plain_template(keys, output_key or "")
        if not isinstance(template, Template):
            raise SettingError(
                f"a {type(template).__name__} as template",
                expected="an icl_plugins.Template",
                fix='pass Template(question="...", answer="..."), or input_keys=[...] and output_key="..."',
            )
        pool = Pool.from_records(examples, template, label_field=checked_key(output_key))
        _check_k(k, max_tokens, len(pool))
        lazy = LazySelection(
            chooser, pool, k, max_tokens=max_tokens, quotas=quotas, renew=renew, progress=progress
        )
        return cls(lazy, input_keys=keys)

    @classmethod
    async def afrom_examples(cls, *args: Any, **kwargs: Any) -> Self:
        """Do what ``from_examples`` does in another thread; ``arefresh`` makes the choice ahead of time."""
        return await run_in_executor(None, lambda: cls.from_examples(*args, **kwargs))

    @classmethod
    def _selector(cls, selector: Selector | None, settings: Mapping[str, object]) -> Selector:
        if cls.method is None:
            if selector is None or settings:
                raise SettingError(
                    f"selector={selector!r:.80} and settings {list(settings)}",
                    expected="a selector, which has its settings already",
                    fix="pass selector=GradientMatching(seed=0), or use GradientMatchingExampleSelector",
                )
            return selector
        known = [field.name for field in fields(cls.method)] if is_dataclass(cls.method) else list(settings)
        unknown = [name for name in settings if name not in known]
        if selector is not None or unknown:
            raise SettingError(
                f"the settings {unknown}" if unknown else f"a selector for {cls.__name__}",
                expected=f"settings of {cls.method.__name__}: {', '.join(known)}",
                fix="correct the names" if unknown else "use ICLExampleSelector, or pass the settings",
            )
        made: Selector = cls.method(**settings)
        return made

    @property
    def selection(self) -> Selection:
        """What was chosen and why; raises SettingError where only a prompt is known."""
        if isinstance(self._source, ManyShotPrompt):
            raise SettingError(
                "the selection of a saved prompt",
                expected="a selector made of a selection or of examples",
                fix="read the prompt's provenance",
            )
        return self._source.selection if isinstance(self._source, LazySelection) else self._source

    def select_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the chosen examples with all their fields, copied anew.

        The first call chooses, which may take minutes. Raises DataError for a missing input key.
        """
        missing = [key for key in self.input_keys if key not in input_variables]
        if missing:
            raise DataError(
                f"no input variable {', '.join(map(repr, missing))}",
                expected=f"the selector's input_keys: {', '.join(self.input_keys)}",
                fix="pass them to the prompt, or make the selector with a template and without input_keys",
            )
        return [copy.deepcopy(dict(example)) for example in self._source.examples]

    async def aselect_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Do what ``select_examples`` does; in another thread if there is something to choose."""
        if isinstance(self._source, LazySelection) and not self._source.ready:
            return await run_in_executor(None, self.select_examples, input_variables)
        return self.select_examples(input_variables)

    def add_example(self, example: Mapping[str, object]) -> None:
        """Add an example to those that may be chosen; cheap, since the work waits for the next choice.

        Raises DataError for an example that cannot be rendered, BudgetError for a label that the limits have
        no room for, SettingError where the choice is fixed. What only the choice can find, such as a row too
        long for the proxy, one call gets as an error that names the examples; the next goes on without them.
        """
        self._lazy().add(example)

    async def aadd_example(self, example: Mapping[str, object]) -> None:
        """Do what ``add_example`` does."""
        self.add_example(example)

    def refresh(self) -> Selection:
        """Choose now; nothing to do if nothing was added since. Raises SettingError where it is fixed."""
        return self._lazy().refresh()

    async def arefresh(self) -> Selection:
        """Do what ``refresh`` does in another thread."""
        return await run_in_executor(None, self.refresh)

    def _lazy(self) -> LazySelection:
        if not isinstance(self._source, LazySelection):
            raise SettingError(
                f"another choice by a selector made of a {type(self._source).__name__}",
                expected="a selector that knows its method",
                fix="make it with from_examples, or of LazySelection(selector, pool, shots)",
            )
        return self._source


def _check_k(k: int | None, max_tokens: int | None, examples: int) -> None:
    """Check under its name here what the library calls shots."""
    if k is None and max_tokens is None:
        raise SettingError("neither k nor max_tokens", expected="one of them", fix="pass k=64")
    if k is not None and whole_number("k", k, 1) > examples:
        raise BudgetError(f"k={k} from {examples} examples", expected=f"at most {examples}", fix="lower k")
