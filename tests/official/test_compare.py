"""Comparisons with the authors' code: they run, and stand-ins show that they see differences.

With MA_AGIQA_OFFICIAL (a clone of the authors' repository) and MA_AGIQA_OFFICIAL_PYTHON (an
interpreter for it) set, the real code is compared, too.
"""

import os
import sys

import pytest
import torch

from ma_agiqa.benchmark.preprocess import generated_file
from ma_agiqa.benchmark.random_weights import write_random_weights
from ma_agiqa.benchmark.scorer import random_scorer, sample_inputs
from ma_agiqa.lmm.embedder import CLIP_STD, PROMPTS, PromptEmbedder
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.sources import DEMO_EMBEDDER, embedder_config
from official.authors import Authors, AuthorsCodeError
from official.compare import authors_flop, compare_preprocess, compare_scorer, main
from support.tiny_scorer import CONFIG

pytestmark = pytest.mark.slow

CHECKOUT = os.environ.get("MA_AGIQA_OFFICIAL")
PYTHON = os.environ.get("MA_AGIQA_OFFICIAL_PYTHON")

# Stands for a checkout of the authors' code: a model of theirs that knows what it was asked.
STAND_IN = """
import torch
class MA_AGIQA(torch.nn.Module):
    def __init__(self, embed_dim):
        super().__init__()
        print("built")  # what their code prints must not reach the answers
        self.output_fc = torch.nn.Linear(196, 1)
    def forward(self, x, tensor1, tensor2):
        assert x.shape[1:] == (3, 224, 224) and x.min() >= -1 and x.max() <= 1
        return self.output_fc.bias.cuda().expand(len(x), 1) + tensor1.mean() * 0
"""

# Stand for their preparation of images: other code that makes the same pixels.
DATA_SET = """
import cv2

class AIGCgeneral:
    def __init__(self, folder, labels, names, transform, keep_ratio, tensor_root):
        self.files = [f"{folder}/{name}" for name in names]
        self.transform = transform

    def __getitem__(self, index):
        pixels = cv2.cvtColor(cv2.imread(self.files[index]), cv2.COLOR_BGR2RGB)
        small = cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_CUBIC)
        small = small.astype("float32").transpose(2, 0, 1) / 255
        return self.transform({"d_img_org": small})
"""
TRANSFORMS = """
import torch

class Normalize:
    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    def __call__(self, sample):
        return {"d_img_org": (sample["d_img_org"] - self.mean) / self.deviation}

class ToTensor:
    def __call__(self, sample):
        return {"d_img_org": torch.from_numpy(sample["d_img_org"])}
"""
SQUARES = """
import torch
from PIL import ImageOps

def process_images(images, processor, config):
    assert config.image_aspect_ratio == "pad"
    side = max(images[0].size)
    padded = [ImageOps.pad(image, (side, side), color=(122, 116, 104)) for image in images]
    return torch.stack([processor(image, return_tensors="pt").pixel_values[0] for image in padded])
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as the authors' repository, with the stand-ins."""
    for file, code in {
        "models/MA_AGIQA.py": STAND_IN,
        "timm.py": "create_model = None",
        "data/AIGC_general.py": DATA_SET,
        "utils/process.py": TRANSFORMS,
        "mplug_owl2/mm_utils.py": SQUARES,
    }.items():
        path = tmp_path / "checkout" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return tmp_path / "checkout"


def test_the_scorers_get_the_same_weights_and_inputs(checkout):
    model = random_scorer(CONFIG, torch.device("cpu"))
    with Authors("scorer", sys.executable, checkout, device="cpu") as authors:
        result = compare_scorer(authors, model, torch.float32, batch=2, rounds=1)
    assert min(result["authors_s"], result["ours_s"]) > 0
    with torch.inference_mode():
        score = model(*sample_inputs(CONFIG, 2, torch.device("cpu"))).score
        expected = float((score - model.fusion.regression.bias).abs().max())
    assert result["difference"] == pytest.approx(expected, abs=1e-4)


def test_preprocessing_gets_the_same_files(checkout):
    files = [generated_file(*size, "PNG") for size in ((90, 60), (60, 90), (70, 70))]
    with Authors("preprocess", sys.executable, checkout, side=56) as authors:
        result = compare_preprocess(authors, files, 56, rounds=1)
    # Newer transformers resize with torchvision, which rounds some pixels one level apart.
    assert result["difference"] <= 1.001 / 255 / min(CLIP_STD)


def test_other_pixels_are_seen(checkout, capsys):
    code = checkout / "mplug_owl2" / "mm_utils.py"
    code.write_text(SQUARES.replace("116", "255"))
    image = checkout / "image.png"
    image.write_bytes(generated_file(90, 60, "PNG"))
    arguments = [str(checkout), "--python", sys.executable, "--rounds", "1", "preprocess"]
    result = main([*arguments, "--semantic-size", "56", str(image)])
    assert result["difference"] > 0.5
    assert f"difference  {result['difference']:.6g}" in capsys.readouterr().out


def test_the_authors_operations_are_those_of_two_passes_with_heads(tiny_owl):
    """Their code runs each prompt twice: more than double the operations of one plain pass."""
    config = tiny_owl["build"]()
    embedder = PromptEmbedder(MPlugOwl2Model.from_official(config, tiny_owl["state"]))
    positions = sum(len(ids) - 1 + config.num_image_tokens for ids in PROMPTS.values())
    heads = 2 * positions * config.hidden_size * config.vocab_size
    assert authors_flop(embedder) > 2 * heads > 0


def test_code_that_does_not_run_is_explained(checkout, tmp_path):
    with pytest.raises(AuthorsCodeError, match=r"has no models/MA_AGIQA\.py"):
        Authors("scorer", sys.executable, checkout / "models", device="cpu")
    with pytest.raises(AuthorsCodeError, match="No such file"):
        Authors("scorer", str(tmp_path / "no_python"), checkout, device="cpu")
    (checkout / "models" / "MA_AGIQA.py").write_text("import a_missing_package")
    with pytest.raises(AuthorsCodeError, match="No module named 'a_missing_package'"):
        Authors("scorer", sys.executable, checkout, device="cpu")
    (checkout / "mplug_owl2" / "model").mkdir()
    settings = {"weights": str(tmp_path), "dtype": "float32", "device": "cpu"}
    with pytest.raises(AuthorsCodeError, match="ended with status 1: ImportError"):
        Authors("embedder", sys.executable, checkout, **settings)


@pytest.mark.slow
@pytest.mark.skipif(not (CHECKOUT and PYTHON), reason="needs the authors' code")
@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.999999), ("bfloat16", 0.9995)])
def test_the_authors_code_gives_the_same_embeddings(tmp_path, dtype, cosine):
    write_random_weights(embedder_config(DEMO_EMBEDDER), tmp_path, getattr(torch, dtype))
    where = [CHECKOUT, "--python", PYTHON, "--rounds", "1", "--batch", "2"]
    result = main([*where, "embedder", str(tmp_path), "--dtype", dtype])
    assert result[f"{dtype}_cosine"] >= cosine
    if dtype == "float32":
        assert result["float32_difference"] < 1e-4
