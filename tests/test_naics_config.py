"""Settings of naics/: the published values, overrides, and what a wrong one is answered with."""

import pytest

from naics.config import CONF, compose
from training_utils import InputError

NO_CODES = ["loss.triplet_weight=0", "loss.stress_weight=0"]
STAGES = ("01_stage_easy", "02_stage_medium", "03_stage_hard")


def test_the_published_values_are_the_defaults():
    config = compose("01_stage_easy")
    assert config.model.base_model_name == "sentence-transformers/all-mpnet-base-v2"
    assert (config.model.lora.r, config.model.lora.alpha, config.model.dropout) == (8, 16, 0.1)
    moe = config.model.moe
    assert (moe.num_experts, moe.top_k, moe.hidden_dim, moe.load_balancing_coef) == (4, 2, 1024, 0.01)
    assert (config.loss.temperature, config.loss.curvature, config.loss.geometry) == (0.07, 1.0, "lorentz")
    assert (config.data.batch_size, config.data.k_negatives, config.data.val_split) == (32, 16, 0.05)
    assert (config.training.learning_rate, config.training.weight_decay) == (2e-4, 0.01)
    assert config.training.trainer.precision == "16-mixed"
    assert config.experiment_name == "01_stage_easy"


@pytest.mark.parametrize("stage", STAGES)
def test_stages_follow_one_another_and_ask_for_whole_batches(stage):
    curriculum = compose(stage).curriculum
    assert sum(curriculum.buckets.values()) == pytest.approx(1)
    assert curriculum.previous == dict(zip(STAGES, (None, *STAGES), strict=False))[stage]
    assert 6 in curriculum.positive_levels
    assert (curriculum.buckets[8] > 0) == (stage == "03_stage_hard")


def test_overrides_groups_and_interpolations():
    overrides = ["training.trainer.max_epochs=20", "model=ngram", "loss=sphere", "paths.data_dir=elsewhere"]
    config = compose("02_stage_medium", [*overrides, "curriculum.buckets={8: 0.2, 1: 0.3}"])
    assert config.training.trainer.max_epochs == 20
    assert config.model.backbone == "ngram" and config.loss.geometry == "sphere"
    assert config.loss.temperature == 0.07  # of the group that sphere is built on
    assert config.data.cache_dir == "elsewhere/token_cache"
    assert config.curriculum.buckets[8] == 0.2 and config.curriculum.buckets[1] == 0.3


def test_one_term_is_enough():
    for more in ([], ["data.queries=0", "loss.listwise_weight=1"], ["loss.redirect_weight=0"]):
        assert compose("01_stage_easy", [*NO_CODES, *more])


def test_every_file_of_conf_composes():
    for path in CONF.glob("*/*.yaml"):
        group = "" if path.parent.name == "curriculum" else f"{path.parent.name}={path.stem}"
        stage = path.stem if not group else STAGES[0]
        assert compose(stage, [group] if group else [])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.trainer.max_epoch=20"], ("no such setting", "did you mean training.trainer.max_epochs?")),
        (["training.trainer.max_epochs=many"], ("training.trainer.max_epochs", "many")),
        (["model=ngrm"], ("no such choice", "did you mean ngram?")),
        (["training.trainer.max_epochs"], ("NAME=VALUE",)),
        (["--foo=1"], ("NAME=VALUE",)),
        (["+model.width=3"], ("model.width", "no such setting")),
        (["model.dim=0"], ("model.dim=0", "1 or more")),
        (["loss.temperature=0"], ("loss.temperature=0", "above 0")),
        (["loss.temperature=nan"], ("loss.temperature",)),
        (["data.rule=best"], ("data.rule=best", "corrected, compat")),
        (["model.dropout=1.0"], ("model.dropout",)),
        (["model.moe.top_k=9"], ("model.moe.top_k=9",)),
        (["data.rule=compat"], ("data.rule=compat", "not trained on", "corrected")),
        ([*NO_CODES, "data.queries=0"], ("triplet_weight", "data.queries")),
        ([*NO_CODES, "loss.query_weight=0"], ("query_weight", "validation")),  # cross-references alone
        (["seed=null"], ("seed",)),
        (["loss.geometry=flat"], ("lorentz, euclidean, sphere",)),
        (["seed=4294967296"], ("seed",)),
    ],
)
def test_a_wrong_override_is_one_line(overrides, words):
    with pytest.raises(InputError) as caught:
        compose("01_stage_easy", overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_unknown_stage_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 01_stage_easy"):
        compose("1_stage_easy")
