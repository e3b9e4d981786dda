"""Recipe files and dotted overrides → a Recipe; mistakes → one sentence with the nearest key."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from epochal.errors import RecipeError, nearest
from epochal.families import families, family_names
from epochal.options import field_docs
from epochal.recipe.renames import rename_flat, rename_tree
from epochal.recipe.schema import BUDGET_KEYS, Recipe
from epochal.units import Interval

Tree = dict[str, Any]


RecipeLike = Recipe | str | Path | None
"""A Recipe, a TOML file, the name of a shipped recipe, or None for the defaults."""


def load_recipe(
    recipe: RecipeLike = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    readers: Sequence[str] = (),
) -> Recipe:
    """A checked recipe: defaults < the family's defaults < file < overrides.

    `recipe` is a TOML file or the name of a shipped recipe; None: defaults only. `overrides` are
    strings like `train.epochs=20` or a mapping {"train.epochs": 20}. A Recipe is returned as it
    is and takes no overrides. Raises RecipeError naming the key, the value and what is allowed.

    A file may set options of any family; overrides only those of the recipe's, or of `readers`, the
    families that are made from them together.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise RecipeError("give overrides with a recipe file, or change the Recipe itself")
        return recipe
    tree = {} if recipe is None else read_toml(find_recipe(recipe))
    changes = read_overrides(overrides)
    apply_overrides(tree, changes)
    loaded = recipe_from_tree(tree)
    check_read(changes, readers or [loaded.family])
    if loaded.run_dir is None:
        name = "run" if recipe is None else Path(recipe).stem
        loaded = dataclasses.replace(loaded, run_dir=f"runs/{name}-{loaded.family}")
    return loaded


def find_recipe(name: str | Path) -> Path:
    """A recipe by path, or a shipped one by name ('quickstart').

    Raises RecipeError that lists the shipped names.
    """
    path, name = Path(name), str(name)
    if path.is_file():  # a folder of that name may hold the runs of the shipped recipe
        return path
    folder = Path(__file__).parent.parent / "recipes"
    shipped = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*.toml")}
    # Also by its path in the repository: recipes/paper/isoflop.toml.
    short = name.removesuffix(".toml").removeprefix("src/epochal/").removeprefix("recipes/")
    if short in shipped:
        return shipped[short]
    names = ", ".join(sorted(shipped))
    raise RecipeError(f"there is no recipe {name}; give a TOML file or a shipped one: {names}")


def read_toml(path: Path) -> Tree:
    """A TOML file as a plain dictionary. Raises RecipeError naming the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe file {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def read_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Overrides as they may be given, as dotted key → value. Raises RecipeError."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    return dict(map(_split_override, overrides))


def _split_override(text: str) -> tuple[str, Any]:
    """`train.epochs=20` → ("train.epochs", 20). The value is TOML; a bare word is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"{text!r} is not an override; write key=value, like train.epochs=20")
    value = value.strip()
    if value.lower() == "none":
        return key.strip(), None
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def apply_overrides(tree: Tree, changes: Mapping[str, Any]) -> None:
    """Set dotted keys in `tree`. A length given here replaces the one in the file."""
    changes = rename_flat(changes)
    train = tree.get("train")
    if isinstance(train, dict) and any(f"train.{key}" in changes for key in BUDGET_KEYS):
        for key in BUDGET_KEYS:
            train.pop(key, None)
    for dotted, value in changes.items():
        *sections, name = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise RecipeError(f"`{dotted}`: `{section}` is a value, not a section")
        node[name] = value


def recipe_from_tree(tree: Tree) -> Recipe:
    """A recipe from a nested dictionary, with its family's defaults for keys it lacks.

    Raises RecipeError for the first mistake.
    """
    tree = _with_family_defaults(rename_tree(tree))
    check_keys(tree)
    options = {
        kind.name: _options(kind.name, kind.options, tree.pop(kind.name, {}))
        for kind in families()
        if kind.options is not None
    }
    try:
        return _adapter().validate_python(tree | {"objectives": options})
    except ValidationError as error:
        raise RecipeError(_sentence(error)) from None


def _with_family_defaults(tree: Tree) -> Tree:
    name, given, known = tree.get("family", Recipe.family), flat(tree), known_keys()
    defaults = next((kind.recipe_defaults for kind in families() if kind.name == name), {})
    for key, value in defaults.items():
        if known[key].default is None:  # a recipe.toml cannot say that such a key is unset
            raise ValueError(f"recipe_defaults of the family {name}: {key} has no default")
        if key in given:
            continue
        section, _, part = key.rpartition(".")
        node = tree.setdefault(section, {}) if section else tree
        if isinstance(node, dict):  # else `check_keys` refuses it
            node[part] = value
    return tree


def _options(name: str, kind: type[Any], values: Tree) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise RecipeError(_sentence(error, f"{name}.")) from None


def recipe_tree(recipe: Recipe) -> Tree:
    """The recipe as plain nested values, ready for TOML or JSON; unset keys are left out."""
    dumped: Tree = _adapter().dump_python(recipe, mode="json", exclude_none=True)
    tree: Tree = {}
    for key, value in dumped.items():
        tree |= value if key == "objectives" else {key: value}
    return tree


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as TOML, every key written out."""
    import tomlkit

    return tomlkit.dumps(recipe_tree(recipe))


def annotated_toml(recipe: Recipe | None = None) -> str:
    """Every key with its meaning as a comment, at its default or at `recipe`'s value.

    Keys without a value are commented out, so the text can be used as a recipe once a length
    and a size are set.
    """
    import tomlkit

    values = flat(recipe_tree(recipe)) if recipe is not None else {}
    document, docs = tomlkit.document(), key_docs()
    for key, field in known_keys().items():
        section, _, name = key.rpartition(".")
        table: Any = document
        if section:
            if section not in document:
                document.add(tomlkit.nl())
                document.add(section, tomlkit.table())
            table = document[section]
        for line in docs[key].splitlines():
            table.add(tomlkit.comment(line))
        value = values.get(key) if recipe is not None else _plain(field.default)
        if value is None:
            table.add(tomlkit.comment(f"{name} ="))
        else:
            table.add(name, value)
    return tomlkit.dumps(document)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Interval) else value


def known_keys() -> dict[str, Any]:
    """Every dotted key, options of families included → its pydantic field (default, type)."""
    return {key: section.__pydantic_fields__[name] for key, section, name in _keys(Recipe)}


def key_docs() -> dict[str, str]:
    """Every dotted key → its meaning, in lines as the source has them."""
    docs = {
        key: field_docs(section, unwrap=False).get(name, "") for key, section, name in _keys(Recipe)
    }
    return docs | {"family": " ".join(f"{f.name}: {f.title}." for f in families())}


def _keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, class it stands in, name there)."""
    for name, info in section.__pydantic_fields__.items():
        if section is Recipe and name == "objectives":
            for kind in families():
                if kind.options is not None:
                    yield from _keys(kind.options, f"{kind.name}.")
        elif hasattr(info.annotation, "__pydantic_fields__"):
            yield from _keys(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, section, name


def check_keys(tree: Tree, prefix: str = "") -> None:
    """Raise RecipeError for the first unknown key, with the nearest known one."""
    known = known_keys()
    sections = {key.rpartition(".")[0] for key in known} - {""}
    for name, value in tree.items():
        dotted = prefix + name
        if dotted in sections:
            if not isinstance(value, dict):
                raise RecipeError(f"`{dotted}` is a section; write `{dotted}.<key> = …`")
            check_keys(value, f"{dotted}.")
        elif dotted not in known:
            if dotted in family_names() and isinstance(value, dict) and value:
                name = next(iter(value))  # of a family without settings
                dotted = f"{dotted}.{name}"
            by_last_part = [key for key in known if key.rpartition(".")[2] == name]
            if dotted.partition(".")[0] in family_names():  # rather another family's
                by_last_part.sort(key=lambda key: key.partition(".")[0] not in family_names())
            hint = f" Did you mean `{by_last_part[0]}`?" if by_last_part else ""
            hint = hint or nearest(dotted, [*known, *sections])
            hint = hint or " `epochal recipe` lists all keys."
            raise RecipeError(f"unknown recipe key `{dotted}`.{hint}")
        elif isinstance(value, bool) and known[dotted].annotation is not bool:
            # Otherwise true would be read as the number 1.
            raise RecipeError(f"`{dotted}` = {str(value).lower()}: it is not a true/false setting")


def check_read(changes: Iterable[str], readers: Sequence[str]) -> None:
    """Raise RecipeError for the first dotted key that is an option of a family not in `readers`."""
    for key in changes:
        section = key.partition(".")[0]
        if section in family_names() and section not in readers:
            raise RecipeError(
                f"`{key}` is a setting of the family {section}, which {' or '.join(readers)} does "
                f"not have; leave it out, or give family={section}"
            )


def identity(recipe: Recipe) -> Tree:
    """What decides a run's numbers, as dotted key → value.

    Not included: paths of files (their content is identified by its hash), logging and
    checkpoint intervals, `[parallel]`, options of other families, and keys of `_ADDED_SINCE_V1`
    at their default. Defaults of the family are included like values from a file.
    """
    values, known = flat(recipe_tree(recipe)), known_keys()
    added = _ADDED_SINCE_V1 | {f"{f.name}.{key}" for f in families() for key in f.added_options}
    return {
        key: value
        for key, value in values.items()
        if not _is_neutral(key, recipe.family)
        and not (key in added and value == _plain(known[key].default))
    }


# Keys added after the first release. Their defaults change nothing, so earlier runs keep their
# identity and can be resumed. A new key that decides a run's numbers must be added here, an option
# of a family to its `Family.added_options`.
_ADDED_SINCE_V1 = frozenset(
    {
        "data.order",
        "train.decay",
        "train.decay_shape",
        "train.cycles",
        "train.lr_progress",
        "train.grad_clip_reduction",
        "train.optimizer",
        "train.cautious_decay",
        "train.ema",
        "train.average_epochs",
        "train.on_nan",
        "train.on_spike",
        "train.spike_factor",
        "eval.ema",
        "model.init_std",
        "model.stochastic_depth",
        "model.noise_conditioning",
        "model.parametrisation",
        "distill.share",
        "distill.temperature",
    }
)
# A run that stops at a fault has skipped none so far, so another policy changes none of its steps.
# At these defaults the keys are not in the identity.
_FAULT_POLICY_DEFAULTS = {"train.on_nan": "stop", "train.on_spike": "ignore"}
# The trunk of `train.start_from` is identified by its content, not its path (training/branch.py),
# and so are teachers (runs/teachers.py).
_NEUTRAL = (
    "run_dir",
    "data.corpus",
    "data.train",
    "data.validation",
    "data.tokenizer",
    "train.start_from",
    "train.start_step",
    "distill.teachers",
)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sorted keys whose change from identity `old` to `new` prevents resuming.

    `on_nan` and `on_spike` may be changed if they were "stop", since no fault can then have been
    skipped.
    """
    free = {
        key for key, default in _FAULT_POLICY_DEFAULTS.items() if old.get(key, default) == "stop"
    }
    if "train.on_spike" in free:
        free.add("train.spike_factor")
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    return sorted(changed - free)


def _is_neutral(key: str, family: str) -> bool:
    section = key.partition(".")[0]
    other = section in family_names() and section != family
    return other or section in ("checkpoint", "log", "parallel") or key in _NEUTRAL


def flat(tree: Tree, prefix: str = "") -> Tree:
    """Nested sections as one dictionary with dotted keys."""
    values: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


@cache
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def _sentence(error: ValidationError, section: str = "") -> str:
    first = error.errors(include_url=False)[0]
    key = section + ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    message = message.replace("Input should be", "it should be")
    return f"`{key}` = {first['input']!r}: {message}"
