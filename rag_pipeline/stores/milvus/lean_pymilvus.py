"""pymilvus without pandas and SciPy.

pymilvus imports pandas for the data frames that its older interface takes, and SciPy to learn whether a sparse vector is
one of SciPy's; nobody passes either here. pandas is 70 MB and a fifth of what starting a command costs, SciPy .3 s of
processor time.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NEEDED = ("pandas", "pandas.api", "pandas.api.types")
_lock = threading.Lock()


def import_pymilvus() -> None:
    """Import pymilvus; it gets pandas and SciPy only once it uses them. Does nothing if it is imported already."""
    if "pymilvus" in sys.modules:
        return
    with _lock:
        if "pymilvus" in sys.modules:
            return
        _import_without_pandas()
        _know_sparse_vectors_without_scipy()


def _import_without_pandas() -> None:
    missing = [name for name in _NEEDED if name not in sys.modules]
    if len(missing) < len(_NEEDED):
        import_module("pymilvus")
        return
    stand_ins = {name: _StandIn(name) for name in _NEEDED}
    sys.modules.update(stand_ins)
    try:
        import_module("pymilvus")
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _know_sparse_vectors_without_scipy() -> None:
    """What is SciPy's cannot exist before SciPy is imported; until then pymilvus need not import it to ask."""
    from pymilvus.client.utils import SciPyHelper

    asks_scipy = SciPyHelper.is_scipy_sparse
    SciPyHelper.is_scipy_sparse = staticmethod(lambda data: "scipy.sparse" in sys.modules and asks_scipy(data))


class _StandIn(ModuleType):
    """What pymilvus gets for a module of pandas: its names are looked up when they are used, in the real one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # A package, whose modules are stand-ins too.
        self.__spec__ = ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is not self:
            return getattr(import_module(self.__name__), name)
        if name.startswith("__"):
            raise AttributeError(name)
        return _OnDemand(self.__name__, name)


class _OnDemand:
    """A function of pandas that pymilvus imports by name, or a class that it only names in annotations."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        return getattr(import_module(self._module), self._name)(*arguments)
