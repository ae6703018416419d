import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
pytest.importorskip("peft")

from raggym_env.errors import OptionError, RunError  # noqa: E402
from raggym_env.training import train_dpo, train_grpo, train_prm, train_sft  # noqa: E402
from raggym_env.training.trl.config import TrainingConfig, lora_config, trl_config  # noqa: E402
from trained import write_workshop  # noqa: E402

pytestmark = pytest.mark.slow


def cpu(**options):
    return TrainingConfig(device="cpu", **options)


def with_defaults(**options):
    return TrainingConfig(**options).with_defaults(learning_rate=2e-4, batch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1"),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs must be a number above 0"),
        ({"lora_rank": -1}, "lora_rank must be a whole number of at least 0"),
        ({"max_steps": 1, "num_train_epochs": 2.0}, "max_steps or num_train_epochs, not both: got 1 and 2.0"),
        ({"max_steps": 2.5}, "max_steps must be a whole number of at least 1, got 2.5"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, got 'fast'"),
        ({"seed": "x"}, "seed must be a whole number of at least 0"),
        ({"trl": 5}, "trl must be a dictionary of JSON values"),
        ({"device": "tpu"}, "device must be auto or cpu, got 'tpu'"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"trl": {"optim_target_modules": {1, 2}}}, "trl must be a dictionary of JSON values"),
        ({"lora": {"target_modules": ("q_proj",)}}, "lora must be a dictionary of JSON values"),
    ],
)
def test_invalid_options_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        TrainingConfig(**options)


def test_settings_set_fields_and_single_arguments_of_trl_and_peft():
    settings = {"lora_rank": 8, "trl.weight_decay": 0.1, "trl.optim": "sgd", "lora.lora_dropout": 0.2}
    options = {"lora_rank": 8, "trl": {"weight_decay": 0.1, "optim": "sgd"}, "lora": {"lora_dropout": 0.2}}
    assert TrainingConfig.from_settings(settings) == TrainingConfig(**options)
    with pytest.raises(OptionError, match=r"TrainingConfig has no option 'dtyp'\. Did you mean 'dtype'\?"):
        TrainingConfig.from_settings({"dtyp": "bfloat16"})


def test_an_update_uses_sixteen_rows_by_default():
    config = with_defaults(device="cpu")
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (1, 16)
    assert (config.num_train_epochs, config.learning_rate) == (1.0, 2e-4)
    assert with_defaults(per_device_train_batch_size=4).gradient_accumulation_steps == 4
    config = with_defaults(gradient_accumulation_steps=3, per_device_train_batch_size=2)
    assert config.gradient_accumulation_steps == 3


def test_a_batch_that_is_split_by_tokens_is_all_rows_of_an_update():
    config = with_defaults(device="cpu", tokens_per_batch=2000)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (16, 1)
    config = with_defaults(device="cpu", tokens_per_batch=2000, per_device_train_batch_size=4)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (4, 4)
    assert "tokens_per_batch" not in with_defaults().identity()
    assert config.identity()["tokens_per_batch"] == 2000


def test_shared_tokens_come_with_a_budget(tmp_path):
    config = with_defaults(device="cpu", share_prefix=True, max_length=700)
    assert (config.tokens_per_batch, config.per_device_train_batch_size) == (700, 16)
    assert config.identity()["share_prefix"] is True
    assert "share_prefix" not in with_defaults().identity()
    with pytest.raises(OptionError, match="share_prefix = True has no effect with RewardConfig"):
        trl_config("RewardConfig", config, tmp_path)
    with pytest.raises(OptionError, match="share_prefix needs a training on one device without gradient_checkpointing"):
        trl_config("SFTConfig", replace(config, trl={"gradient_checkpointing": True}), tmp_path)
    with pytest.raises(OptionError, match="share_prefix must be true or false, got 'yes'"):
        TrainingConfig(share_prefix="yes")


@pytest.mark.parametrize("name", ["GRPOConfig", "RLOOConfig"])
def test_a_trainer_that_cannot_split_batches_says_so(name, tmp_path):
    with pytest.raises(OptionError, match=f"tokens_per_batch = 99 has no effect with {name}"):
        trl_config(name, with_defaults(tokens_per_batch=99, per_device_train_batch_size=8, device="cpu"), tmp_path)


def test_all_weights_learn_at_a_tenth_of_an_adapters_rate():
    assert with_defaults(lora_rank=0).learning_rate == pytest.approx(2e-5)
    assert with_defaults(lora_rank=0, learning_rate=0.1).learning_rate == 0.1


def test_a_cpu_computes_in_full_precision_and_nothing_twice_by_default(tmp_path):
    args = trl_config("SFTConfig", with_defaults(device="cpu"), tmp_path)
    assert (args.use_cpu, args.bf16, args.gradient_checkpointing) == (True, False, False)
    assert trl_config("SFTConfig", with_defaults(device="cpu", dtype="bfloat16"), tmp_path).bf16


def test_device_and_checkpoint_interval_are_not_part_of_the_recipe():
    assert cpu(save_steps=3).identity() == TrainingConfig().identity()
    for options in ({"seed": 1}, {"trl": {"weight_decay": 0.1}}, {"lora": {"lora_dropout": 0.1}}):
        assert TrainingConfig(**options).identity() != TrainingConfig().identity()


def test_arguments_of_trl_and_peft_are_passed_through(tmp_path):
    options = {"weight_decay": 0.01, "lr_scheduler_type": "linear", "warmup_steps": 7}
    args = trl_config("SFTConfig", with_defaults(trl=options), tmp_path, completion_only_loss=True)
    assert (args.weight_decay, args.lr_scheduler_type, args.warmup_steps) == (0.01, "linear", 7)
    adapter = lora_config(TrainingConfig(lora_rank=4, lora={"lora_dropout": 0.1, "target_modules": ["q_proj"]}))
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (4, 8, 0.1)
    assert adapter.target_modules == {"q_proj"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decai": 0.1}, r"trl\.SFTConfig has no option 'weight_decai'\. Did you mean 'weight_decay'\?"),
        ({"learning_rate": 1.0}, "learning_rate cannot be passed through: use the option learning_rate outside of trl"),
        ({"max_length": 9}, "use the option max_length outside of trl"),
        ({"bf16": True}, "use the option dtype"),
        ({"completion_only_loss": False}, "the trainer sets it from its own arguments"),
        ({"lr_scheduler_type": "zigzag"}, r"SFTConfig refuses trl = \{'lr_scheduler_type': 'zigzag'\}"),
    ],
)
def test_arguments_that_trl_or_we_refuse_are_named(tmp_path, options, message):
    with pytest.raises(OptionError, match=message):
        trl_config("SFTConfig", with_defaults(trl=options), tmp_path, completion_only_loss=True)


@pytest.mark.parametrize(
    "name", ["output_dir", "save_strategy", "save_only_model", "ignore_data_skip", "sync_ref_model"]
)
def test_arguments_that_would_break_resuming_are_refused(tmp_path, name):
    with pytest.raises(OptionError, match=f"{name} cannot be passed .* could not be resumed"):
        trl_config("GRPOConfig", with_defaults(trl={name: True}), tmp_path)


@pytest.mark.parametrize("name", ["SFTConfig", "DPOConfig", "RewardConfig", "GRPOConfig", "RLOOConfig"])
def test_every_trainer_of_trl_takes_the_shared_arguments(tmp_path, name):
    # GRPO and RLOO require a batch that holds the generations of a prompt, 8 by default.
    args = trl_config(name, with_defaults(per_device_train_batch_size=8, device="cpu"), tmp_path)
    assert (args.output_dir, args.learning_rate) == (str(tmp_path / "checkpoints"), 2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": {"lora_dropuot": 0.1}}, "Did you mean 'lora_dropout'"),
        ({"lora": {"r": 4}}, "use the option lora_rank"),
        ({"lora": {"lora_dropout": 0.1}, "lora_rank": 0}, "lora configures a new adapter"),
        ({"lora": {"lora_dropout": 0.1}, "model": "smollm2+runs/sft"}, "lora configures a new adapter"),
    ],
)
def test_arguments_that_peft_or_we_refuse_are_named(options, message):
    with pytest.raises(OptionError, match=message):
        lora_config(TrainingConfig(**options))


@pytest.mark.parametrize("train", [train_sft, train_dpo, train_prm, train_grpo])
def test_passed_arguments_are_checked_before_any_data_is_read(train, tmp_path):
    for option in ("trl", "lora"):
        with pytest.raises(OptionError, match="has no option 'nosuch'"):
            train(tmp_path / "nowhere", tmp_path / "out", config=TrainingConfig(**{option: {"nosuch": 1}}))
    assert not (tmp_path / "out").exists()


def test_passed_arguments_take_effect_and_are_part_of_the_recipe(tmp_path):
    shop = write_workshop(tmp_path / "shop", questions=2)
    options = {"trl": {"lr_scheduler_type": "constant", "warmup_steps": 0}, "lora": {"use_rslora": True}}
    train_sft(shop.data, tmp_path / "out", agent=shop.agent, config=shop.config(**options))
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert [entry["learning_rate"] for entry in recipe["report"]["log"]] == [0.01, 0.01]
    assert {name: recipe["config"]["options"][name] for name in options} == options
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_rslora"]
    with pytest.raises(RunError, match=r"options\.trl\.warmup_steps is 0 there and None here"):
        train_sft(shop.data, tmp_path / "out", agent=shop.agent, config=shop.config(lora=options["lora"]))
