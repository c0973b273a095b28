"""Reading the config of a comparison: YAML or JSON, checked whole before anything runs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from icl_plugins.checked import checked_record
from icl_plugins.config_files import Places, read_mapping
from icl_plugins.evaluation.config import Config
from icl_plugins.readers import FilePath


def read_config(path: FilePath, variables: Mapping[str, str] | None = None) -> tuple[Config, dict[str, Any]]:
    """Read and check a config -> the config, ready to use, and the file as read.

    Paths are relative to the file. `${name}` in paths and names of models is replaced, literally, by a
    variable given here or else of the environment. Raises SettingError naming the key, and DataError for a
    file that is missing or no YAML.
    """
    content = read_mapping(path)
    config = checked_record(Config, content)
    places = Places.of(path, variables, _texts(config))
    datasets = tuple(
        replace(
            data,
            train=places.file(f"datasets[{at}].train", data.train),
            test=data.test and places.file(f"datasets[{at}].test", data.test),
        )
        for at, data in enumerate(config.datasets)
    )
    target = replace(config.target, model=places.hub_name("target.model", config.target.model))
    proxy = places.hub_name("proxy", config.proxy)
    methods = dict(config.methods)
    for name, method in config.methods.items():
        if method.state is not None:
            where = f"methods.{name}.state"
            states = {data: places.state(where, text) for data, text in method.states.items()}
            methods[name] = replace(method, state=states)
    return replace(config, datasets=datasets, target=target, proxy=proxy, methods=methods), content


def _texts(config: Config) -> Iterable[str]:
    yield from (config.proxy, config.target.model)
    for data in config.datasets:
        yield from (data.train, data.test or "")
    for method in config.methods.values():
        yield from method.states.values()
