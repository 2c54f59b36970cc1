"""Python globals of ranks that are threads: what a rank changes in modules and classes is that rank's own.

Every rank starts with the process's globals as they are, as a spawned process would. Before another rank runs, what the
running rank has changed is taken, and what the next one had changed is set in its place; at the end of the run the
process has its own again. So a rank number or a process group in a module's global name (as in the parallel state of
Megatron, fairscale or picotron) is right on every rank, and a patch of a class does not outlast the run.

The state is that of modules which are not the standard library's, PyTorch's, or another known library's. In those
only functions and classes that were replaced are looked for, in each rank's first turns.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes

from shardproof.errors import CannotRunError
from shardproof.worlds.rank_state import Names, Queried, states_of
from shardproof.worlds.reachable_modules import find_reachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.worlds.rank_state import RankState

# Libraries that keep nothing of a rank in their modules, and whose modules are many.
_LIBRARIES: Final = frozenset(
    {
        "shardproof",
        "torch",
        "torchgen",
        "functorch",
        "numpy",
        "scipy",
        "pandas",
        "sympy",
        "mpmath",
        "networkx",
        "jinja2",
    }
    | {"markupsafe", "yaml", "transformers", "tokenizers", "huggingface_hub", "safetensors", "triton", "greenlet"}
    | {"pytest", "_pytest", "pluggy", "xdist", "execnet", "hypothesis", "sortedcontainers", "iniconfig", "packaging"}
    | {"setuptools", "pkg_resources", "_distutils_hack", "pip", "typer", "rich", "click", "pygments", "tqdm", "regex"}
    | {"requests", "urllib3", "httpx", "httpcore", "certifi", "idna", "charset_normalizer", "filelock", "fsspec", "PIL"}
    | {"matplotlib", "IPython", "ipykernel", "debugpy", "pydevd", "coverage", "expecttest", "attr", "attrs", "six"}
    | {
        "httpx2",
        "httpcore2",
        "anyio",
        "sniffio",
        "h11",
        "h2",
        "truststore",
        "pydantic",
        "pydantic_core",
        "annotated_types",
        "cython_runtime",
        "dateutil",
        "pytz",
    }
    | {"jupyter_client", "jupyter_core", "nbclient", "nbformat", "jupytext", "zmq", "tornado", "traitlets", "comm"}
    | {"platformdirs", "prompt_toolkit", "wcwidth", "parso", "jedi", "stack_data", "executing", "asttokens"}
    | {"pure_eval", "matplotlib_inline", "pexpect", "ptyprocess", "nest_asyncio", "nest_asyncio2"}
    | {"typing_extensions", "cython", "google", "tensorboard", "tensorflow", "jax", "jaxlib", "cffi", "psutil"}
)
# How names of modules begin that a tool makes, or that a debugger brings along without a package around them.
_GENERATED: Final = ("_cython_", "_sysconfigdata_", "_remote_module_", "pydev", "_pydev")
# Where people patch PyTorch and transformers.
_PATCHED: Final = ("torch.nn", "torch.optim", "torch.distributed.distributed_c10d", "transformers")
_PATCHED_EXACTLY: Final = frozenset({"torch", "torch.distributed", "torch.utils.checkpoint", "torch.autograd.function"})
_TURNS_WITH_LIBRARIES = 4


def is_users_module(name: Any) -> bool:
    """Whether the module of this name may keep state of a rank. An odd class has no name there."""
    top = name.partition(".")[0] if isinstance(name, str) else ""
    if top == "__main__":
        return True
    return bool(top) and not (top in _LIBRARIES or top in sys.stdlib_module_names or top.startswith(_GENERATED))


@dataclass(slots=True, kw_only=True)
class _Watched:
    """One state: what it was before the run, and the last content seen.

    Attributes:
        owner: the rank that keeps it where no other rank looks, in what it has changed itself; None: the process's.
        written: by its owner, and not to be separated.
    """

    state: RankState
    base: Any
    now: Any
    owner: int | None = None
    written: bool = False


@dataclass(slots=True, kw_only=True)
class RankGlobals:
    """Of one run.

    Attributes:
        roots: the functions that ranks run, and their arguments: modules that these cannot reach are looked at once, at
            the end of the run.
        current: the rank whose globals the process has now; None: its own.
    """

    roots: Any = None
    current: int | None = None
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _libraries: list[tuple[RankState, Any]] = field(default_factory=list)
    _known: dict[int, Any] = field(default_factory=dict)
    _own: dict[int | None, dict[int, Any]] = field(default_factory=dict)
    _states_of: dict[int, list[int]] = field(default_factory=dict)
    _turns: dict[int, int] = field(default_factory=dict)
    _modules: int = 0
    _reachable: set[str] = field(default_factory=set)
    _others: list[tuple[RankState, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Python's own lists of threads, which some debuggers' modules name too: they belong to no rank.
        self._known |= {id(value): value for value in vars(threading).values() if isinstance(value, dict | list | set)}
        self._watch(Queried("os.environ", lambda: dict(os.environ), _set_environment))
        self._reachable = find_reachable(self.roots, is_users_module)
        # By identity: a module may stand under several names (`__main__` and `__mp_main__`).
        reachable = {id(sys.modules[name]) for name in self._reachable}
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and is_users_module(name) and id(module) not in reachable:
                self._known[id(module.__dict__)] = module
                names = Names(name, module.__dict__)
                self._others.append((names, names.take()))
        self._find_modules()
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and (name in _PATCHED_EXACTLY or name.startswith(_PATCHED)):
                self._libraries += [(state, state.take()) for state in _callables_of(name, module)]

    def switch_to(self, rank: int | None) -> None:
        """Take what the current rank has changed, and set what `rank` had changed.

        Raises:
            CannotRunError: the current rank changed what cannot be taken apart.
        """
        if rank == self.current:
            return
        with _disable_current_modes(), torch._C.DisableTorchFunction():  # noqa: SLF001 - reads tensors' versions
            self._take(last=rank is None)
            before, after = self._own.get(self.current, {}), self._own.get(rank, {})
            for key in before.keys() | after.keys():
                watched = self._watched[key]
                watched.now = after.get(key, watched.base)
                watched.state.put(watched.now)
        self.current = rank

    def _take(self, *, last: bool) -> None:
        """Note what has changed since the last switch: it is the current rank's."""
        self._find_modules()
        if self.current is not None:
            turns = self._turns[self.current] = self._turns.get(self.current, 0) + 1
            if turns <= _TURNS_WITH_LIBRARIES or last:
                self._find_patches(late=turns > _TURNS_WITH_LIBRARIES)
        if last:
            self._check_others()
        own = self._own.setdefault(self.current, {})
        for key, watched in list(self._watched.items()):
            if watched.state.equals(watched.now):
                continue
            watched.now = watched.state.take()
            if not watched.state.separable:
                if watched.owner is None or watched.owner != self.current:
                    self._refuse(watched.state)
                watched.written = True
                continue  # a buffer of this rank's own, say: nothing has to be set again for the others
            own[key] = watched.now
            self._find_inner(watched.state, watched.now, owner=self.current)

    def _find_modules(self) -> None:
        """Watch modules that have been imported since, as they are."""
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and is_users_module(name):
                self.watch_module(name, module)

    def watch_module(self, name: str, module: ModuleType) -> None:
        """Watch a module's global names, and all that they lead to."""
        if id(module.__dict__) not in self._known:
            self._known[id(module.__dict__)] = module
            self._watch(Names(name, module.__dict__))

    def _watch(self, state: RankState) -> None:
        snapshot = state.take()
        self._watched[id(state)] = _Watched(state=state, base=snapshot, now=snapshot)
        self._find_inner(state, snapshot)

    def _find_inner(self, state: RankState, snapshot: Any, *, owner: int | None = None) -> None:
        """Watch what a snapshot leads to; what no snapshot led to before is `owner`'s, whose snapshot it is."""
        found = [(state, snapshot)]
        while found:
            outer, content = found.pop()
            for name, value in outer.inner(content):
                if id(value) in self._known:
                    self._note_shared(value, owner)
                    continue
                for inner in states_of(name, value, is_users_module):
                    self._known[id(value)] = value  # kept alive, so that no other object gets its identity
                    taken = inner.take()
                    self._watched[id(inner)] = _Watched(state=inner, base=taken, now=taken, owner=owner)
                    self._states_of.setdefault(id(value), []).append(id(inner))
                    found.append((inner, taken))

    def _note_shared(self, value: Any, rank: int | None) -> None:
        """What two ranks hold belongs to neither."""
        for key in self._states_of.get(id(value), ()):
            watched = self._watched[key]
            if watched.owner != rank:
                writer, watched.owner = watched.owner, None
                if watched.written:
                    self._refuse(watched.state, writer)

    def _find_patches(self, *, late: bool) -> None:
        """Watch what has been replaced in libraries, from now on."""
        changed = [one for one in self._libraries if not one[0].equals(one[1])]
        for state, snapshot in changed:
            if late:
                state.put(snapshot)
                self._refuse(state)
            self._watched[id(state)] = _Watched(state=state, base=snapshot, now=snapshot)
            self._libraries.remove((state, snapshot))

    def _check_others(self) -> None:
        """Refuse changes in modules that the ranks' code does not lead to: nobody knows whose they are."""
        for state, snapshot in self._others:
            if not state.equals(snapshot):
                state.put(snapshot)
                self._refuse(state)

    def _refuse(self, state: RankState, rank: int | None = None) -> None:
        rank = self.current if rank is None else rank
        raise CannotRunError(
            f"rank {rank} changed {state.name}, which ranks that are threads of one process share; run the ranks as "
            "processes: spawn=True, --spawn"
        )

    @contextmanager
    def imports_watched(self) -> Iterator[None]:
        """Inside, a module is watched as it is right after its import, before the importing rank changes it."""
        finder = _WatchedImports(self)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)


class _WatchedImports:
    """Finds modules as all other finders do, and tells when one has been executed."""

    def __init__(self, rank_globals: RankGlobals) -> None:
        self._globals = rank_globals

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if not is_users_module(name):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._tell_when_executed(name, spec.loader)
                return spec
        return None

    def _tell_when_executed(self, name: str, loader: Any) -> None:
        execute = getattr(loader, "exec_module", None)
        if execute is None or not hasattr(loader, "__dict__"):
            return

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            self._globals.watch_module(name, module)

        loader.exec_module = execute_and_tell


class _Callables:
    """The functions and classes among the global names of a library's module, or the methods of its class."""

    separable = True

    def __init__(self, name: str, owner: Any) -> None:
        self.name, self._owner = name, owner

    def take(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self._owner).items() if callable(value)}

    def equals(self, snapshot: dict[str, Any]) -> bool:
        content = vars(self._owner)
        return all(content.get(key) is value or _is_ours(content.get(key)) for key, value in snapshot.items())

    def put(self, snapshot: dict[str, Any]) -> None:
        content = vars(self._owner)
        for key, value in snapshot.items():
            if content.get(key) is not value:
                setattr(self._owner, key, value)

    def inner(self, _snapshot: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        return iter(())


def _is_ours(value: Any) -> bool:
    return getattr(value, "__module__", None) is not None and str(value.__module__).startswith("shardproof.")


def _callables_of(name: str, module: ModuleType) -> Iterator[RankState]:
    yield _Callables(name, module)
    for key, value in list(vars(module).items()):
        if issubclass(type(value), type) and value.__module__ == name:
            yield _Callables(f"{name}.{key}", value)


def _set_environment(content: dict[str, str]) -> None:
    for key in [key for key in os.environ if key not in content]:
        del os.environ[key]
    for key, value in content.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
