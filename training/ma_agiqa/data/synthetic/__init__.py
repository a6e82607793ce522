"""A synthetic data set for the demo model: pictures, graded degradations, a pseudo-MOS.

    python -m ma_agiqa synthetic --output data/synthetic [--seed 20]

writes `images/`, `data.csv` (columns image, mos, source, degradation, level) and `recipe.json`.
The pictures are crops of public-domain and CC0 photographs that scikit-image ships (`sources`
lists them with their licenses) and procedural scenes (`scenes`); they are damaged by graded
`degradations`; `opinion` states the rule that gives each its pseudo-MOS in 0..5. The same seed
and library versions give the same set.
"""

from ma_agiqa.data.synthetic.build import build, ensure

__all__ = ["build", "ensure"]
