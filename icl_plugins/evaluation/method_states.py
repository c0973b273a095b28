"""The states of the methods of a config: where each data set has its own, and on which targets."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from icl_plugins.checked import unknown_name
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.method_config import MethodConfig


def with_states(
    methods: Mapping[str, MethodConfig], datasets: Collection[str], target: str
) -> dict[str, MethodConfig]:
    """Return the methods, their states by data set; datasets: their names. target: its kind.

    Raises SettingError for states behind an API, and for one folder where there are several data sets.
    """
    return {name: _with_states(name, method, datasets, target) for name, method in methods.items()}


def _with_states(name: str, method: MethodConfig, datasets: Collection[str], target: str) -> MethodConfig:
    where = f"methods.{name}.{method.thinking or 'state'}"
    if (method.thinking or method.state is not None) and target != "local":
        raise SettingError(
            f"{where} with target.kind {target}",
            expected="a local target, whose keys and values can be reached",
            fix="set target.kind to local, or leave the method out",
        )
    if isinstance(method.state, str):
        if len(datasets) > 1:
            raise SettingError(
                f"{where}: one folder for {len(datasets)} data sets",
                expected="names of data sets, each with its folder, since a state is of one",
                fix=f"write it as {{{next(iter(datasets))}: {method.state}}}",
            )
        return replace(method, state=dict.fromkeys(datasets, method.state))
    for data in method.states:
        if data not in datasets:
            raise unknown_name(f"{where}.{data}", data, datasets, "data sets")
    return method
