"""ManyICL: fine-tuning on many-shot sequences with the loss on every answer in the context."""

from icl_plugins.tuning.many_icl import ManyICL
from icl_plugins.tuning.sequences import Weighting
from icl_plugins.tuning.stage import Stage
from icl_plugins.tuning.tasks import Task

__all__ = ["ManyICL", "Stage", "Task", "Weighting"]
