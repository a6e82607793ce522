"""How fast the package is on this machine, measured on the real work.

python -m ma_agiqa benchmark train --config training/configs/demo.yaml
python -m ma_agiqa benchmark embedder --preset paper --random-weights --batch 1 4
python -m ma_agiqa benchmark dtypes my_images/*.png
python -m ma_agiqa benchmark scorer --preset paper --random-weights --dtype bf16 --batch 1 4 8
python -m ma_agiqa benchmark preprocess examples/*.jpg
"""

from ma_agiqa.benchmark.training import TrainingSpeed, measure_training

__all__ = ["TrainingSpeed", "measure_training"]
