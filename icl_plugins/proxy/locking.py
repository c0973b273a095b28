"""One lock for each model: to run it behind a state changes, for a while, how it attends."""

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch.nn import Module

    from icl_plugins.proxy.model import Proxy

_locks: "WeakKeyDictionary[Module, threading.RLock]" = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(proxy: "Proxy") -> threading.RLock:
    """Return the lock of the proxy's model, the same for all proxies and states of it."""
    return model_lock(proxy.model)


def model_lock(model: "Module") -> threading.RLock:
    """Return the lock of a model."""
    with _making:
        return _locks.setdefault(model, threading.RLock())
