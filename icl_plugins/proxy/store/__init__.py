"""Per-example gradients, on disk or in memory."""

from icl_plugins.proxy.store.blocks import RowStatus
from icl_plugins.proxy.store.gradient_store import GradientStore
from icl_plugins.proxy.store.memory import MemoryStore

__all__ = ["GradientStore", "MemoryStore", "RowStatus"]
