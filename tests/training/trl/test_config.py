import pytest

torch = pytest.importorskip("torch")

from raggym_env.training.trl.options import Options, arguments  # noqa: E402


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"epochs": float("nan")}, "epochs must be above 0"),
        ({"lora_rank": -1}, "lora_rank must be 0 or more"),
        ({"steps": 1, "epochs": 2.0}, "steps or epochs, not both: got 1 and 2.0"),
        ({"device": "tpu"}, "device must be auto or cpu, got 'tpu'"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given, said):
    with pytest.raises(ValueError, match=said):
        Options(**given)


def test_a_step_is_over_sixteen_rows_unless_told_otherwise():
    filled = Options(device="cpu").filled(lr=2e-4, batch=8)
    assert (filled.batch, filled.accumulate, filled.epochs, filled.lr) == (1, 16, 1.0, 2e-4)
    assert Options(batch=4).filled(lr=1.0, batch=8).accumulate == 4
    assert Options(accumulate=3, batch=2).filled(lr=1.0, batch=8).accumulate == 3


def test_all_weights_learn_at_a_tenth_of_an_adapters_rate():
    assert Options(lora_rank=0).filled(lr=2e-4, batch=1).lr == pytest.approx(2e-5)
    assert Options(lora_rank=0, lr=0.1).filled(lr=2e-4, batch=1).lr == 0.1


def test_on_a_cpu_nothing_is_computed_twice_or_in_half_precision_unless_asked_for(tmp_path):
    said = arguments(Options(device="cpu").filled(lr=1.0, batch=1), tmp_path)
    assert (said["use_cpu"], said["bf16"], said["gradient_checkpointing"]) == (True, False, False)
    assert arguments(Options(device="cpu", dtype="bfloat16").filled(lr=1.0, batch=1), tmp_path)["bf16"]


def test_where_it_is_trained_is_no_part_of_the_recipe():
    assert Options(device="cpu", save_every=3).identity() == Options().identity()
    assert Options(seed=1).identity() != Options().identity()
