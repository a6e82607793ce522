"""The other methods of the paper's Table 1, on the same split and with the same metrics.

    methods         which there are, and how the paper uses them
    weight_files    files that a method needs: where they belong, how they are fetched
    loading         a method ready to score: finds its code and its weights
    handcrafted     BRISQUE by the PyPI package of that name
    pyiqa_metrics   most methods, by pyiqa
    q_align         Q-Align on our own mPLUG-Owl2
    checkouts       StairIQA and BAID, by the user's checkout of their authors' code
    networks        views of an image and a network that scores them
    training        the paper's recipe for the trained methods
    scoring         many images, on all cores
    comparison      runs what is missing, one file of predictions per method
    results         the table, with the paper's numbers beside

Nothing here is an implementation of ours with parameters of ours: a method whose code or weights
are not on the machine is left out of the table, and named.
"""

from ma_agiqa.evaluate.baselines.comparison import Outcome, compare
from ma_agiqa.evaluate.baselines.loading import Options, load
from ma_agiqa.evaluate.baselines.methods import METHODS, Method
from ma_agiqa.evaluate.baselines.results import write_tables

__all__ = ["METHODS", "Method", "Options", "Outcome", "compare", "load", "write_tables"]
