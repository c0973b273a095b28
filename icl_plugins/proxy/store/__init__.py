"""Per-example gradients on disk."""

from icl_plugins.proxy.store.blocks import RowStatus
from icl_plugins.proxy.store.gradient_store import GradientStore

__all__ = ["GradientStore", "RowStatus"]
