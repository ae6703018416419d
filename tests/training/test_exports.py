import subprocess
import sys

import pytest

import raggym_env.training


def test_importing_training_loads_no_pytorch():
    code = "import sys, raggym_env.training as t; t.collect, t.export, t.Collection; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.slow
def test_every_exported_name_exists():
    pytest.importorskip("trl")
    names = raggym_env.training.__all__
    assert names == sorted(names)
    assert {name for names in raggym_env.training._MODULES.values() for name in names} < set(names)
    assert [name for name in names if not hasattr(raggym_env.training, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'train_ppo'"):
        _ = raggym_env.training.train_ppo
