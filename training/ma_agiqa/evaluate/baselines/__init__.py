"""The other methods of the paper's Table 1, on the same split and with the same metrics.

    methods         which there are, and how the paper uses them
    pyiqa_metrics   most methods, by pyiqa
    brisque         BRISQUE by the PyPI package of that name
    q_align         Q-Align on our own mPLUG-Owl2
    networks        views of an image and a network that scores them
    training        the paper's recipe for the trained methods
    scoring         many images
    comparison      runs the methods that have no predictions yet

Each gives a file of predictions, which `ma_agiqa.evaluate` measures and lays out. StairIQA and BAID
are scored with their authors' scripts, whose output `evaluate --predictions NAME=FILE.csv` takes.
"""

from ma_agiqa.evaluate.baselines.comparison import Baseline, run_baselines
from ma_agiqa.evaluate.baselines.methods import METHODS, Method
from ma_agiqa.evaluate.baselines.scoring import Options

__all__ = ["METHODS", "Baseline", "Method", "Options", "run_baselines"]
