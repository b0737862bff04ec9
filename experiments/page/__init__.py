"""Writes reports as HTML pages that need no network: tables, charts, figures and videos.

The report and the live page use it. It knows neither runs nor scores.
"""

from experiments.page.charts import Chart, ChartGroup, LegendEntry, Line
from experiments.page.write import Video, write_page

__all__ = ["Chart", "ChartGroup", "LegendEntry", "Line", "Video", "write_page"]
