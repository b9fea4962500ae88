"""Numbers that pictures are told with: how a network takes them; how they are kept, hidden, guided by, asked for."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny
from torch import Tensor, nn

from fromnoise.config import Config, build_network, build_pipeline, parse, to_toml
from fromnoise.data import Dataset
from fromnoise.data.quantities import SHOWN, Quantities, quantities
from fromnoise.denoiser import Denoiser
from fromnoise.errors import FromnoiseError, WrongUse
from fromnoise.guidance import ClassifierFree
from fromnoise.interop.diffusers_unet import diffusers_config
from fromnoise.network.unet import UNet
from fromnoise.parameterization import Epsilon
from fromnoise.pipeline import Pipeline
from fromnoise.schedule import Linear
from fromnoise.schema import read_toml
from fromnoise.train.batches import Batches

SETTINGS: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "model_channels": 16,
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "channel_mult": (1, 2),
    "resolution": 8,
}
STANDARD = ((1900.0, 40.0), (0.0, 1.0))
NAN = math.nan


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(**changes: Any) -> UNet:
    """Away from its start, where the output is nearly zero whatever is said."""
    made = UNet(**{**SETTINGS, **changes})
    with torch.no_grad():
        for k, weight in enumerate(made.parameters()):
            weight.add_(0.2 * draw(*weight.shape, seed=k))
    return made


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers])


X, TIMES = draw(3, 1, 8, 8), torch.tensor([2.0, 300.0, 999.0])

# -------------------------------------------------------------------------------------------------------- the network


def test_what_is_not_said_adds_nothing_to_the_bit() -> None:
    """A row with a NaN is the network without values at all: the same weights without those of the values."""
    told = network(values=STANDARD)
    bare = network()
    bare.load_state_dict({name: weight for name, weight in told.state_dict().items() if "values" not in name})
    nothing = bare(X, TIMES)
    assert torch.equal(told(X, TIMES), nothing)
    assert torch.equal(told(X, TIMES, values=torch.full((3, 2), NAN)), nothing)
    mixed = told(X, TIMES, values=torch.tensor([[1950.0, 1.0], [NAN, NAN], [1950.0, NAN]]))
    assert torch.equal(mixed[1:], nothing[1:])
    assert not torch.allclose(mixed[0], nothing[0])


def test_what_is_said_is_a_linear_map_of_standard_numbers_beside_the_time() -> None:
    told = network(values=STANDARD)
    seen: list[Any] = []
    told.block_time.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    values = torch.tensor([[1900.0, 0.0], [1980.0, 1.0], [NAN, NAN]])
    told(X, TIMES, values=values)
    told(X, TIMES)
    (linear,) = (module for name, module in told.named_modules() if name == "values.linear")
    assert isinstance(linear, nn.Linear)
    standard = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    embedding: list[Any] = []
    told.time.register_forward_hook(lambda _, __, output: embedding.append(output))
    told(X, TIMES)
    expected = nn.functional.silu(embedding[0][:2] + standard @ linear.weight.T + linear.bias)
    torch.testing.assert_close(seen[0][:2], expected)
    assert torch.equal(seen[0][2], seen[1][2])


def test_a_network_without_values_is_the_one_it_was() -> None:
    """Neither weights nor where they start depend on there being such a thing as values."""
    for classes in (0, 5):
        torch.manual_seed(1)
        plain = UNet(**SETTINGS, num_classes=classes)
        torch.manual_seed(1)
        again = UNet(**SETTINGS, num_classes=classes, values=())
        tiny.assert_same_bits(plain.state_dict(), again.state_dict())
        assert not any("values" in name for name in plain.state_dict())
        more = UNet(**SETTINGS, num_classes=classes, values=STANDARD)
        width = 4 * SETTINGS["model_channels"]
        added = sum(p.numel() for p in more.parameters()) - sum(p.numel() for p in plain.parameters())
        assert added == 2 * width + width


def test_hidden_values_leave_no_nan_in_a_gradient() -> None:
    told = network(values=STANDARD)
    told(X, TIMES, values=torch.tensor([[NAN, NAN], [1950.0, 1.0], [NAN, 0.0]])).square().mean().backward()
    gradients = [p.grad for name, p in told.named_parameters() if name.startswith("values")]
    assert len(gradients) == 2
    for gradient in gradients:
        assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())
    told.zero_grad()
    told(X, TIMES, values=torch.full((3, 2), NAN)).square().mean().backward()
    for name, p in told.named_parameters():
        if name.startswith("values"):
            assert p.grad is not None and not bool(p.grad.any())


@pytest.mark.parametrize(
    ("changes", "values", "complaint"),
    [
        ({}, torch.zeros(3, 2), "built without values"),
        ({"values": STANDARD}, torch.zeros(3, 1), "should be (3, 2)"),
        ({"values": STANDARD}, torch.zeros(1, 2), "should be (3, 2)"),
        ({"values": STANDARD}, torch.zeros(3), "should be (3, 2)"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes: dict[str, Any], values: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        network(**changes)(X, TIMES, values=values)


def test_diffusers_has_no_such_network() -> None:
    with pytest.raises(FromnoiseError, match="this network is told values"):
        diffusers_config(**SETTINGS, values=STANDARD)
    assert diffusers_config(**SETTINGS, values=())["sample_size"] == 8


# ------------------------------------------------------------------------------------------------- what is kept of them


def test_mean_and_deviation_are_those_of_the_pictures_and_labels_stay_as_they_are() -> None:
    values = torch.stack([draw(1000).abs() * 1e6 + 1e9, (draw(1000, seed=1) > 0).float(), draw(1000, seed=2)], dim=1)
    kept = quantities(values, ["when", "dog", "warmth"])
    exact = values.double().numpy()
    for k in (0, 2):
        assert kept.mean[k] == pytest.approx(exact[:, k].mean(), rel=1e-7)
        assert kept.deviation[k] == pytest.approx(exact[:, k].std(), rel=1e-7)
        assert np.float32(kept.low[k]) == values[:, k].min() and np.float32(kept.high[k]) == values[:, k].max()
    assert kept.standard[1] == (0, 1) and kept.labels == ("dog",)


def test_a_column_of_plus_and_minus_one_is_no_label_and_one_that_never_changes_divides_by_nothing() -> None:
    kept = quantities(torch.tensor([[-1.0, 0.1], [1.0, 0.1], [-1.0, 0.1], [1.0, 0.1]]), ["sign", "same"])
    assert kept.standard[0] == (0, 1) and kept.labels == ()
    assert kept.standard[1] == (0.1, 1.0)  # The shortest number that is the same float32.


def test_examples_are_rows_of_the_pictures_from_end_to_end() -> None:
    values = torch.stack([torch.arange(100.0)[torch.randperm(100)], torch.zeros(100)], dim=1)
    values[:, 1] = values[:, 0] % 2
    kept = quantities(values, ["n", "odd"])
    rows = values.tolist()
    assert len(kept.examples) == SHOWN and all(list(example) in rows for example in kept.examples)
    numbers = [example[0] for example in kept.examples]
    assert numbers == [0, 14, 28, 42, 57, 71, 85, 99]
    assert kept == quantities(values.flip(0), ["n", "odd"])  # The order of the pictures does not matter.


@pytest.mark.parametrize(
    ("values", "names", "complaint"),
    [
        (torch.ones(4, 2), ["a", "b"], "all pictures have the same values (a, b), so nothing can be learnt"),
        (torch.tensor([[1.0], [math.inf]]), ["a"], "some of the values a are too large"),
        (torch.empty(4, 0), [], "the pictures have not one label"),
        (draw(4, 2), ["a", "a"], "two columns of values have one name"),
    ],
)
def test_values_of_which_nothing_can_be_learnt(values: Tensor, names: list[str], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        quantities(values, names)
    assert complaint in str(caught.value)


KEPT = quantities(torch.tensor([[0.1, 0, 5], [0.2, 1, 7], [0.4, 1, 9], [0.5, 0, 7]]), ["lux", "dog", "age"])


def test_they_go_into_a_file_and_come_back() -> None:
    config = tiny.config()
    told = replace(config, data=replace(config.data, quantities=KEPT))
    again = parse(read_toml(to_toml(told), "a file"), "a file")
    assert again == told and again.data.quantities.examples == KEPT.examples
    assert parse(read_toml(to_toml(config), "a file"), "a file").data.quantities == Quantities()
    with pytest.raises(WrongUse, match="every list must have a number for each of the names"):
        parse({"data": {"quantities": {"names": ["a"]}}}, "a file")


def test_what_is_said_by_name_becomes_rows() -> None:
    assert KEPT.rows({"age": 8}, 2) == [[pytest.approx(0.3), 0, 8], [pytest.approx(0.3), 0, 8]]
    in_turn = KEPT.rows({"lux": [0.1, 0.2], "dog": 1, "age": (5, 6, 7)}, 4)
    assert in_turn == [[0.1, 1, 5], [0.2, 1, 6], [0.1, 1, 7], [0.2, 1, 5]]
    mistakes: list[tuple[Any, str]] = [
        ({"lox": 1}, "did you mean 'lux'?"),
        ({"lux": []}, "empty list"),
        ({"lux": "high"}, "is no number"),
        ({"lux": math.inf}, "must be a finite number"),
        ({"lux": 1e39}, "below 3e38"),
    ]
    for wrong, complaint in mistakes:
        with pytest.raises(WrongUse) as caught:
            KEPT.rows(wrong, 1)
        assert complaint in str(caught.value)


def test_only_what_lies_beyond_the_pictures_is_told() -> None:
    assert KEPT.unseen([[0.1, 0, 5], [0.5, 1, 9], [0.10000001, 0.5, 9]]) == []
    (line,) = KEPT.unseen([[0.3, 0, 5], [0.7, 0, 5], [-1.0, 0, 6]])
    assert line.startswith("lux = 0.7 lies outside of what the training pictures have, 0.1 to 0.5")
    assert [line.split()[0] for line in KEPT.unseen([[0.3, 2, -5]])] == ["dog", "age"]


# ------------------------------------------------------------------------------------------------------------ training


def pictures(count: int = 40) -> Dataset:
    known = tiny.digits(count)
    values = torch.stack([torch.arange(count, dtype=torch.float32), (torch.arange(count) % 3 == 0).float()], dim=1)
    return tiny.other(known, values=values, value_names=("place", "third"))


def test_a_label_and_its_values_are_hidden_together() -> None:
    source = Batches(pictures=pictures(), shape=(1, 8, 8), batch_size=200, seed=5, label_dropout=0.3, null_label=10)
    batch = source(2)
    assert batch.values is not None and batch.labels is not None
    hidden = batch.values.isnan()
    assert torch.equal(hidden[:, 0], hidden[:, 1]) and torch.equal(hidden[:, 0], batch.labels == 10)
    assert 0.2 < hidden.float().mean() < 0.4
    known = pictures()
    assert known.labels is not None
    for k, index in enumerate(source.indices(2)):
        if not hidden[k, 0]:
            assert batch.values[k].tolist() == [index, float(index % 3 == 0)] and batch.labels[k] == known.labels[index]
    without = Batches(
        pictures=tiny.digits(), shape=(1, 8, 8), batch_size=200, seed=5, label_dropout=0.3, null_label=10
    )(2)
    assert without.values is None and without.labels is not None and torch.equal(without.labels, batch.labels)
    assert torch.equal(without.eps, batch.eps) and torch.equal(without.u, batch.u)


def test_a_part_of_a_batch_is_told_of_its_own_pictures() -> None:
    cpu = torch.device("cpu")
    batch = Batches(pictures=pictures(), shape=(1, 8, 8), batch_size=6, seed=1)(0)
    part = batch.condition(slice(2, 5), cpu)
    assert batch.labels is not None and batch.values is not None and part.keys() == {"label", "values"}
    assert torch.equal(part["label"], batch.labels[2:5]) and torch.equal(part["values"], batch.values[2:5])
    bare = tiny.other(tiny.digits(), labels=None, classes=())
    assert Batches(pictures=bare, shape=(1, 8, 8), batch_size=6, seed=1)(0).condition(slice(0, 3), cpu) == {}


# ------------------------------------------------------------------------------------------------------------ guidance


class Said(nn.Module):
    """Answers with what it is told: label + 10 · the first value; −1 for no label, 0 for no values."""

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        answer = torch.zeros(len(x))
        if label is not None:
            answer = answer + torch.where(label == 3, -1, label)
        if values is not None:
            answer = answer + 10 * values[:, 0].nan_to_num(0.0)
        return answer[:, None, None, None].expand_as(x)


@pytest.mark.parametrize(
    ("condition", "with_", "without"),
    [
        ({"values": row(0.5).expand(2, 1)}, 5, 0),
        ({"label": torch.tensor([2, 2])}, 2, -1),
        ({"label": torch.tensor([2, 2]), "values": row(0.5).expand(2, 1)}, 7, -1),
        ({"label": None, "values": row(0.5).expand(2, 1)}, 5, 0),
    ],
)
def test_guidance_goes_beyond_what_is_said(condition: dict[str, Any], with_: float, without: float) -> None:
    """eps = u + w (c − u), where u is the answer to nothing said, be it of the label, of the values or of both."""
    schedule = Linear()
    plain = Denoiser(Said(), schedule, Epsilon())
    level, x = schedule(torch.tensor([200.0, 700.0])), draw(2, 1, 4, 4)
    guided = ClassifierFree(plain, 2.5, null_label=3).unclipped(x, level, **condition)
    torch.testing.assert_close(guided.eps, torch.full_like(x, without + 2.5 * (with_ - without)))
    none = ClassifierFree(plain, 1.0, null_label=3).unclipped(x, level, **condition)
    assert torch.equal(none.eps, plain.unclipped(x, level, **condition).eps)


def test_guidance_needs_something_said() -> None:
    schedule = Linear()
    guided = ClassifierFree(Denoiser(Said(), schedule, Epsilon()), 2.0, null_label=3)
    with pytest.raises(WrongUse, match="the label or the values that it should strengthen"):
        guided.unclipped(draw(2, 1, 4, 4), schedule(500.0), label=None, values=None)


# ------------------------------------------------------------------------------------------------------------ sampling


def told(config: Config, *, classes: bool) -> Pipeline:
    names = config.data.class_names if classes else ()
    config = replace(config, data=replace(config.data, quantities=KEPT, class_names=names))
    made = build_network(config)
    with torch.no_grad():
        for k, weight in enumerate(made.parameters()):
            weight.add_(0.05 * draw(*weight.shape, seed=k))
    return build_pipeline(config, made)


FEW: dict[str, Any] = {
    "network": {"model_channels": 16},
    "sampling": {"sampler": {"kind": "ddim"}, "spacing": {"kind": "trailing", "steps": 3}},
}


def test_numbers_by_name_are_the_rows_that_they_stand_for() -> None:
    pipeline = told(tiny.config(FEW), classes=False)
    by_name = pipeline.sample(3, values={"lux": [0.1, 0.5, 0.2], "dog": 1, "age": 8})
    assert np.array_equal(by_name, pipeline.sample(3, values=[[0.1, 1, 8], [0.5, 1, 8], [0.2, 1, 8]], batch_size=3))
    one = pipeline.sample(1, seed=1, values={"lux": 0.5, "dog": 1, "age": 8})
    assert np.abs(one[0].astype(int) - by_name[1]).max() <= 1
    assert not np.array_equal(by_name, pipeline.sample(3, values={"lux": [0.5, 0.1, 0.2], "dog": 1, "age": 8}))


def test_without_a_wish_the_examples_are_taken_in_turn_and_with_classes_after_each_turn_of_these() -> None:
    base = tiny.config(FEW)
    pipeline = told(base, classes=False)
    examples = list(KEPT.examples)
    assert np.array_equal(pipeline.sample(9), pipeline.sample(9, values=[*examples, examples[0]]))
    both = told(base, classes=True)
    labels, rows = both.in_turn(25)
    assert labels == [*range(10), *range(10), *range(5)]
    assert rows == [list(examples[k]) for k in [0] * 10 + [1] * 10 + [2] * 5]
    assert both.in_turn(3, [7, 7, 7]) == ([7, 7, 7], [list(examples[k]) for k in range(3)])
    assert np.array_equal(both.sample(12), both.sample(12, labels=list(labels[:12]), values=rows[:12]))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ([[1.0, 2.0, 3.0]], "2 pictures need 2 rows of values, not 1"),
        ([[1.0, 2.0]] * 2, "a row of 2 values: this model takes 3 (lux, dog, age)"),
        ([[1.0, NAN, 3.0]] * 2, "the value dog = nan: must be a finite number"),
        ({"ag": 3}, "ag is none of this model's values; did you mean 'age'?"),
    ],
)
def test_values_the_model_does_not_know(values: Any, complaint: str) -> None:
    pipeline = told(tiny.config(FEW), classes=False)
    with pytest.raises(WrongUse) as caught:
        pipeline.sample(2, values=values)
    assert complaint in str(caught.value)
    plain = replace(pipeline, quantities=Quantities())
    with pytest.raises(WrongUse, match="this model was trained without values"):
        plain.sample(2, values={"lux": 1})
