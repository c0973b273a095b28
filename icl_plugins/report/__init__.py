"""Reports that people look at: one HTML page for a selection, a prompt or a comparison (extra `report`)."""

from icl_plugins.report.comparison import comparison_report
from icl_plugins.report.page import Report
from icl_plugins.report.selection import prompt_report, selection_report

__all__ = ["Report", "comparison_report", "prompt_report", "selection_report"]
