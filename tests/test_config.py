"""The config: unknown keys, wrong values, overrides, round trips. Every message names the setting and the rule."""

from __future__ import annotations

import pytest
import yaml

from vaelab.core.config import Config, build_config, differences, parse_overrides
from vaelab.core.errors import BadInput
from vaelab.core.files import read_yaml


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.lerning_rate=1"], "train.lerning_rate: no such setting; did you mean learning_rate?"),
        (["trian.steps=1"], "trian: no such setting; did you mean train?"),
        (["train.learning_rate=.nan"], "train.learning_rate: got nan; must be a finite number"),
        (["train.learning_rate=.inf"], "train.learning_rate: got inf; must be a finite number"),
        (["train.learning_rate=0"], "must be greater than 0"),
        (["train.learning_rate=-1"], "must be greater than 0"),
        (["train.learning_rate=true"], "must be a number, not a truth value"),
        (["train.steps=no"], "must be a number, not a truth value"),
        (["train.steps=1.5"], "train.steps: got 1.5; must be a valid integer"),
        (["train.epochs=0"], "train.epochs: got 0; must be greater than or equal to 1"),
        (["model.latent=0"], "model.latent: got 0"),
        (["model.latent=1000000000"], "model.latent: got 1000000000; must be less than or equal to 65536"),
        (["seed=-1"], "seed: got -1"),
        (["seed=18446744073709551616"], "seed: got 18446744073709551616"),
        (["likelihood=bernouli"], "must be 'auto', 'bernoulli'"),
        (["likelihood=bernouli"], "did you mean bernoulli?"),
        (["objective=betatc"], "did you mean beta_tc?"),
        (["train.products=mkl"], "must be 'auto', 'default' or 'onednn'"),
        (["prior=gmm"], "it is fitted after training: prior.after=gmm"),
        (["train.device=tpu"], "train.device: got tpu"),
        (["objective.anneal=linear"], "needs objective.warmup_steps"),
        (["objective.capacity=3", "objective.free_bits=0.1"], "set one of them"),
        (["train.steps"], "settings are written section.key=value"),
        (["=3"], "settings are written section.key=value"),
        (["train.steps=1", "train.steps=2"], "given twice"),
        (["train.steps=!!python/object/apply:os.system [id]"], "train.steps"),
        (["train=3"], "train: got 3"),
        (["data.condition=[]"], "data.condition: got []; must be labels, array, or the names of one or more columns"),
        (["data.condition=3"], "data.condition: got 3; must be labels, array, or the names of one or more columns"),
        (["data.condition=[a, a]"], "data.condition: got ['a', 'a']; names a column twice"),
        (["train.aggressive=3"], "aggressive above 1 and aggressive_until above 0 go together"),
        (["train.aggressive_until=3"], "aggressive above 1 and aggressive_until above 0 go together"),
    ],
)
def test_wrong_settings_are_named_with_their_rule(settings: list[str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        build_config(parse_overrides(settings))
    assert said in str(caught.value)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


def test_a_bare_name_is_a_list_of_one() -> None:
    config = build_config(parse_overrides(["model.condition_on=decoder", "data.condition=age"]))
    assert config.model.condition_on == ("decoder",) and config.data.condition == ("age",)


def test_kinds_of_columns_are_one_setting_of_which_every_change_is_seen() -> None:
    plain, one, two = (
        build_config({"data": {"kinds": k}}) for k in (None, {"a": "count"}, {"a": "count", "b": "number"})
    )
    for old, new in ((plain, one), (one, plain), (one, two), (two, one)):
        assert differences(old, new) == {"data.kinds": (old.data.kinds, new.data.kinds)}
    assert differences(two, two) == {}


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        build_config({"train": {"steps": 0, "batch_size": 0}, "modle": {}})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  steps: 5\n  steps: 6\n", "steps"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("seed: !!python/name:os.system\n", "tag"),
        ("", "empty"),
        ("- 1\n- 2\n", "mapping"),
        ("{" * 200 + "}" * 200, ""),
    ],
)
def test_yaml_files_that_are_refused(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_number_in_exponent_form_is_a_number(tmp_path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("train:\n  learning_rate: 1e-3\n")
    assert build_config(read_yaml(path)).train.learning_rate == 1e-3


def test_a_saved_config_loads_back_equal(tmp_path) -> None:
    config = build_config({"model": {"hidden": [5, 6]}, "likelihood": "gaussian", "seed": 2**62})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert build_config(read_yaml(path)) == config


def test_layers_win_from_left_to_right_and_a_name_keeps_its_section() -> None:
    config = build_config({"likelihood": {"noise": "fixed"}}, {"likelihood": "gaussian"}, {"train": {"steps": 7}})
    assert (config.likelihood.name, config.likelihood.noise, config.train.steps) == ("gaussian", "fixed", 7)
    assert differences(Config(), config) == {
        "likelihood.name": ("auto", "gaussian"),
        "likelihood.noise": ("shared", "fixed"),
        "train.steps": (None, 7),
    }
