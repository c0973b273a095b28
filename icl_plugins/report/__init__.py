"""Reports that people look at: one HTML page of a selection, prompt, state or comparison (`report`)."""

from icl_plugins.report.comparison import comparison_report
from icl_plugins.report.page import Report
from icl_plugins.report.selection import prompt_report, selection_report
from icl_plugins.report.thinking import state_report

__all__ = ["Report", "comparison_report", "prompt_report", "selection_report", "state_report"]
