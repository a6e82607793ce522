"""Pictures of predictions: how scores follow the MOS, and where another model fails (paper §4.5).

    python -m ma_agiqa figures --predictions ours.csv --baseline maniqa.csv --images images \
        --output figures

`scatter` shows the scores of one model, `gates` what its gate weighs; `differences` (Fig. 6) and
`panel` (Fig. 7) compare it with another. Each draws one matplotlib figure from tables of
predictions; `style` holds what they share.
"""

from ma_agiqa.evaluate.figures.differences import draw_differences, worst_images
from ma_agiqa.evaluate.figures.gates import draw_gates
from ma_agiqa.evaluate.figures.panel import choose_images, draw_panel
from ma_agiqa.evaluate.figures.scatter import draw_scatter
from ma_agiqa.evaluate.figures.style import FORMATS, save

__all__ = [
    "FORMATS",
    "choose_images",
    "draw_differences",
    "draw_gates",
    "draw_panel",
    "draw_scatter",
    "save",
    "worst_images",
]
