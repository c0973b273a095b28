"""What a person gets who installs: a true README, no dangerous code, every file, quick imports."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "icl_plugins"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DISTRIBUTION_OF = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports from outside its package."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def dangers(module: ast.Module) -> list[str]:
    """Uses of code that reads pickles, runs data as code, or trusts remote code; comments do not count."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and node.id in {"eval", "exec", "compile", "__import__"}:
            found.append(f"{node.lineno}: {node.id}")
        elif isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            found.append(f"{node.lineno}: torch.load")
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module == "torch"
            and any(alias.name == "load" for alias in node.names)
        ):
            found.append(f"{node.lineno}: from torch import load")
        elif isinstance(node, ast.keyword) and node.arg in {
            "trust_remote_code",
            "allow_pickle",
            "weights_only",
        }:
            value = node.value.value if isinstance(node.value, ast.Constant) else "computed"
            if value is not False:
                found.append(f"{node.value.lineno}: {node.arg}={value}")
        elif isinstance(node, ast.Dict):
            found += [
                f"{key.lineno}: {key.value!r} in a dict"
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
                and key.value in ("trust_remote_code", "allow_pickle")
                and not (isinstance(value, ast.Constant) and value.value is False)
            ]
    return found


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


# --- README ---------------------------------------------------------------------------------------------


def sh_blocks() -> list[list[str]]:
    readme = (ROOT / "README.md").read_text("utf-8")
    return [
        block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    ]


def test_the_quick_start_is_two_sh_blocks_of_one_line_each():
    assert [len(lines) for lines in sh_blocks()] == [1, 1]


@pytest.mark.parametrize("number", [0, 1])
def test_each_line_of_the_quick_start_sets_itself_up_with_the_tested_versions(number):
    (line,) = sh_blocks()[number]
    assert "-m venv .venv" in line
    assert "-c constraints.txt" in line


def test_the_first_line_does_the_main_job_on_shipped_data_and_the_second_runs_the_tests():
    (job,), (tests,) = sh_blocks()
    assert "icl-plugins select sample:" in job and "--out prompt.json" in job
    assert ".[test]" in tests and "pytest" in tests


def test_the_options_of_the_first_line_exist():
    from typer.main import get_command

    from icl_plugins.cli import app

    known = {name for option in get_command(app).commands["select"].params for name in option.opts}
    assert set(re.findall(r" (--[a-z-]+)", sh_blocks()[0][0].split("icl-plugins select")[1])) <= known


# --- what must not be in the code -----------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_no_evaluation_of_data_and_no_remote_code(path):
    assert dangers(tree(path)) == []
    assert imported(path) & PICKLING == set()


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "torch.load(path)",
        "from torch import load",
        "load(path, trust_remote_code=True)",
        "load(path, trust_remote_code=given)",
        "load(**{'trust_remote_code': True})",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_check_above_finds_what_it_looks_for(code):
    assert dangers(ast.parse(code))


def test_the_check_above_leaves_alone_what_is_allowed():
    assert not dangers(
        ast.parse("model.eval()  # eval(\nload(path, trust_remote_code=False)\nre.compile('a')")
    )


# --- imports and dependencies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["icl_plugins", "icl_plugins.cli", "icl_plugins.algorithms.matching", "icl_plugins.examples"]
)
def test_importing_loads_neither_torch_nor_transformers(module):
    heavy = ("torch", "transformers", "datasets", "sklearn")
    assert python(f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])") == "[]"


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}


def test_every_import_is_declared_and_every_declaration_is_needed():
    own = {"icl_plugins", "openai_icl"}  # the command line's --target and --model
    used = set().union(*map(imported, SOURCES)) - set(sys.stdlib_module_names) - own
    distributions = {DISTRIBUTION_OF.get(name, name).replace("_", "-").lower() for name in used}
    own_extras = ("embeddings", "report", "tuning")
    extras = names(sum((PROJECT["optional-dependencies"][extra] for extra in own_extras), []))
    assert distributions == names(PROJECT["dependencies"]) | extras


def test_the_tested_versions_pin_what_is_declared():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    declared = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert names(declared) - {"icl-plugins"} <= pinned
    assert "torch==2.13.0" in lines


def test_the_version_is_the_same_everywhere():
    import icl_plugins

    assert icl_plugins.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# --- the wheel ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the wheel is made of."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(PACKAGE, folder / "icl_plugins", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def files(source):
    return {str(path.relative_to(source)) for path in source.rglob("icl_plugins/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(source, files, tmp_path_factory):
    """A wheel, built without a network; after `files`, since building adds to the folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel, files):
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == files


def test_the_wheel_holds_the_proxy_the_sample_the_types_and_the_licences(wheel):
    packed = zipfile.ZipFile(wheel).namelist()
    for name in (
        "icl_plugins/py.typed",
        "icl_plugins/data/banking77.jsonl",
        "icl_plugins/proxy/micro/config.json",
        "icl_plugins/proxy/micro/model.safetensors",
        "icl_plugins/proxy/micro/tokenizer.json",
    ):
        assert name in packed
    assert {Path(name).name for name in packed if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_wheel_is_small(wheel):
    assert wheel.stat().st_size <= 13 * 2**20


def test_the_sample_is_what_its_readme_says():
    lines = (PACKAGE / "data" / "banking77.jsonl").read_bytes()
    assert lines.count(b"\n") == 2000 and len(lines) <= 300_000
    from icl_plugins import Pool, Template

    template = Template(question="Query: {text}\nIntent:", answer=" {label}")
    counts = Pool.from_jsonl(PACKAGE / "data" / "banking77.jsonl", template).label_counts
    assert (len(counts), min(counts.values()), max(counts.values())) == (77, 7, 38)


def test_the_command_is_installed_where_the_package_is():
    try:
        scripts = importlib.metadata.distribution("icl-plugins").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package runs from its folder, not installed")
    assert [(script.name, script.value) for script in scripts] == [("icl-plugins", "icl_plugins.cli:main")]
