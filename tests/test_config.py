"""Settings: every kind in every table goes to TOML and back, and every mistake is told with the nearest right word."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import tiny

from fromnoise import config as settings
from fromnoise.codec import Codec
from fromnoise.config import (
    TABLES,
    Config,
    build_network,
    build_pipeline,
    parse,
    preset,
    preset_for,
    presets,
    to_toml,
    to_tree,
)
from fromnoise.denoiser import Clip, Clipping, Denoiser
from fromnoise.errors import WrongUse
from fromnoise.ladder import Spacing
from fromnoise.objective import Objective, Simple, Times, Weighting
from fromnoise.parameterization import Parameterization, Velocity
from fromnoise.sampler import Ancestral, Sampler
from fromnoise.schedule import Cosine, DiscreteSchedule, Given, Linear, Schedule, ZeroTerminalSNR
from fromnoise.schema import assignment, merge, read_toml
from fromnoise.task.prepare import settle
from fromnoise.train.optimizer import Optimizer
from fromnoise.train.rate import Rate
from fromnoise.transition import Large, Small, Variance

# Where in the tree the kinds of a table are chosen.
PLACES: dict[type, str] = {
    Codec: "codec",
    settings.NetworkSettings: "network",
    Schedule: "schedule",
    DiscreteSchedule: "schedule.base",
    Parameterization: "parameterization",
    Variance: "sampling.variance",
    Clipping: "sampling.clip",
    Spacing: "sampling.spacing",
    Sampler: "sampling.sampler",
    Objective: "objective",
    Times: "objective.times",
    Weighting: "objective.weighting",
    Optimizer: "train.optimizer",
    Rate: "train.rate",
}
# What a kind cannot be made without.
NEEDED: dict[tuple[type, str], dict[str, Any]] = {
    **{(table, "given"): {"values": [0.1, 0.2, 0.3]} for table in (Schedule, DiscreteSchedule)},
    **{
        (table, "zero_terminal_snr"): {"base": {"kind": "cosine", "steps": 20}}
        for table in (Schedule, DiscreteSchedule)
    },
    (Spacing, "given"): {"times": [900.0, 400.0, 30.0]},
    (Variance, "analytic"): {"times": [1.0, 500.0], "gamma": [0.1, 0.9]},
}
KINDS = [(table, kind) for table, kinds in TABLES.items() for kind in kinds]


def at(place: str, value: Any) -> dict[str, Any]:
    tree: Any = value
    for part in reversed(place.split(".")):
        tree = {part: tree}
    return tree


def chosen(table: type, kind: str, **values: Any) -> dict[str, Any]:
    tree = at(PLACES[table], {"kind": kind, **NEEDED.get((table, kind), {}), **values})
    return merge({"schedule": {"kind": "zero_terminal_snr"}}, tree) if table is DiscreteSchedule else tree


def test_every_table_is_reached_from_the_tree() -> None:
    assert PLACES.keys() == TABLES.keys()


@pytest.mark.parametrize(("table", "kind"), KINDS)
def test_every_kind_goes_out_and_comes_back(table: type, kind: str) -> None:
    config = parse(chosen(table, kind), "test")
    found: Any = config
    for part in PLACES[table].split("."):
        found = getattr(found, part)
    assert type(found) is TABLES[table][kind]
    assert parse(to_tree(config), "test") == config
    assert parse(tomllib.loads(to_toml(config)), "test") == config
    shown = to_tree(config)
    for part in PLACES[table].split("."):
        shown = shown[part]
    assert shown["kind"] == kind


@pytest.mark.parametrize(("table", "kind"), KINDS)
def test_every_field_of_every_kind_can_be_set(table: type, kind: str) -> None:
    """Each is given a value of its own that is not the default, and is found again."""
    cls = TABLES[table][kind]
    plain: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
    numbers = {k: v for k, v in plain.items() if type(v) in {int, float}}
    other = {k: v * 1.5 if type(v) is float else v + 2 for k, v in numbers.items()}
    # Fields that allow little.
    few = {"dropout": 0.4, "quantile": 0.9, "eta": 0.25, "order": 1, "beta_1": 0.5, "beta_2": 0.6, "end": 0.7}
    other |= {k: v for k, v in few.items() if k in other}
    config: Any = parse(chosen(table, kind, **other), "test")
    for part in PLACES[table].split("."):
        config = getattr(config, part)
    assert {name: getattr(config, name) for name in numbers} == other


@pytest.mark.parametrize(("table", "kind"), KINDS)
def test_a_kind_misspelt_is_offered_the_right_one(table: type, kind: str) -> None:
    wrong = kind + "q"
    with pytest.raises(WrongUse) as caught:
        parse(merge(chosen(table, kind), at(PLACES[table], {"kind": wrong})), "F")
    assert str(caught.value) == f"F: [{PLACES[table]}] kind = {wrong!r} is not known; did you mean {kind!r}?"


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Config)])
def test_a_section_misspelt_is_offered_the_right_one(name: str) -> None:
    with pytest.raises(WrongUse) as caught:
        parse({name[:-1]: {}}, "my.toml")
    assert str(caught.value) == f"my.toml: {name[:-1]}: no such section; did you mean {name!r}?"


@pytest.mark.parametrize(
    ("section", "name"),
    [
        (section.name, field.name)
        for section in dataclasses.fields(Config)
        if dataclasses.is_dataclass(section.type)
        for field in dataclasses.fields(section.type)
    ],
)
def test_a_key_misspelt_is_offered_the_right_one(section: str, name: str) -> None:
    with pytest.raises(WrongUse) as caught:
        parse({section: {name + "z": 1}}, "my.toml")
    assert str(caught.value) == f"my.toml: [{section}] {name}z: no such key; did you mean {name!r}?"


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        ({"train": 3}, "F: [train] should be a table of settings, not 3"),
        ({"train": {"lr": "1e-4"}}, "F: [train] lr = '1e-4': should be a valid number"),
        ({"train": {"lr": True}}, "F: [train] lr = True: should be a valid number"),
        ({"train": {"lr": [1]}}, "F: [train] lr = [1]: should be a valid number"),
        ({"train": {"batch_size": 2.5}}, "F: [train] batch_size = 2.5: should be a valid integer"),
        ({"train": {"batch_size": False}}, "F: [train] batch_size = False: should be a valid integer"),
        ({"train": {"flip": 1}}, "F: [train] flip = 1: should be a valid boolean"),
        ({"train": {"flip": "yes"}}, "F: [train] flip = 'yes': should be a valid boolean"),
        ({"data": {"path": 5}}, "F: [data] path = 5: should be a valid string"),
        ({"data": {"class_names": "cat"}}, "F: [data] class_names = 'cat': should be a list"),
        ({"network": {"channel_mult": ["1"]}}, "F: [network] channel_mult = ['1']: should be a valid integer"),
        ({"network": {"kind": 3}}, "F: [network] kind = 3 is not known; known: unet"),
        ({"schedule": {"kind": "given"}}, "F: [schedule] values is missing"),
        ({"schedule": {"kind": "given", "values": [0.1, "x"]}}, "F: [schedule] values = [0.1, 'x']: should be a valid"),
        ({"schedule": {"kind": "zero_terminal_snr", "base": {"kind": "linnear"}}}, "[schedule.base] kind = 'linnear'"),
        ({"sampling": {"sampler": {"variance": {"kind": "smalll"}}}}, "F: [sampling.sampler.variance] kind = 'smalll'"),
        ({"sampling": {"spacing": {"kind": "all", "steps": 3}}}, "kind = 'all' has none; known kinds: all, strided"),
        ({"train": {"steps": 1, "images": 1}}, "F: [train] steps and images are given"),
        ({"data": {"held_out": 1.0}}, "F: [data] held_out = 1.0: is a share"),
        ({"network": {"dropout": 1.0}}, "F: [network] dropout = 1.0: must lie between 0 and 1, 1 not included"),
        ({"network": {"num_res_blocks": 0}}, "F: [network] num_res_blocks = 0: must be at least 1"),
        ({"network": {"model_channels": 0}}, "F: [network] model_channels = 0: must be at least 4"),
    ],
)
def test_a_wrong_value_is_told_in_one_line_with_its_place(tree: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WrongUse) as caught:
        parse(tree, "F")
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_may_be_written_either_way() -> None:
    config = parse({"train": {"steps": 1e5, "lr": 1, "clip": 0}}, "test")
    assert config.train.steps == 100_000 and type(config.train.steps) is int
    assert config.train.lr == 1.0 and type(config.train.lr) is float


def test_a_word_is_short_for_a_table_with_that_kind() -> None:
    config = parse({"schedule": "cosine", "parameterization": "velocity", "sampling": {"sampler": "ancestral"}}, "test")
    assert config.schedule == Cosine() and config.parameterization == Velocity()


def test_nothing_said_is_the_paper() -> None:
    config = parse({}, "test")
    assert config == Config()
    assert config.schedule == Linear() and config.network == settings.UNetSettings()


# -------------------------------------------------------------------------------------------------------------- merge


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": [1, 2]}}, {"a": {"x": [3]}}, {"a": {"x": [3]}}),
        ({}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "q"}}, {"a": {"kind": "q"}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"kind": "p", "y": 2}}, {"a": {"kind": "p", "x": 1, "y": 2}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": {"y": 2}}, {"a": {"kind": "p", "x": 1, "y": 2}}),
        ({"a": "p"}, {"a": {"x": 1}}, {"a": {"kind": "p", "x": 1}}),
        ({"a": "p"}, {"a": {"kind": "q", "x": 1}}, {"a": {"kind": "q", "x": 1}}),
        ({"a": {"kind": "p", "x": 1}}, {"a": "q"}, {"a": "q"}),
        ({"a": {"kind": "p", "x": 1}}, {"a": "p"}, {"a": {"kind": "p", "x": 1}}),
        ({"a": {"b": {"kind": "p", "x": 1}, "c": 1}}, {"a": {"b": "q"}}, {"a": {"b": "q", "c": 1}}),
    ],
)
def test_what_lies_above_wins(below: dict[str, Any], above: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr(below), repr(above)
    assert merge(below, above) == merged
    assert (repr(below), repr(above)) == before


def test_a_key_for_a_kind_given_as_a_word_stays_with_that_kind() -> None:
    """`schedule = "cosine"` in a file and --set schedule.steps=20 is not a linear schedule of 20 steps."""
    assert parse(merge({"schedule": "cosine"}, assignment("schedule.steps=20")), "test").schedule == Cosine(steps=20)


def test_a_section_may_be_given_its_kind_alone() -> None:
    assert assignment("schedule=cosine") == {"schedule": "cosine"}
    assert parse(assignment("objective=hybrid"), "test").objective.learns_variance
    with pytest.raises(WrongUse, match=r"the settings: \[train\] should be a table of settings, not 'adam'"):
        settle({"data": {"path": "digits"}, **assignment("train=adam")}, preset_name=None, source="the settings")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("train.lr=1e-4", {"train": {"lr": 1e-4}}),
        ("train.steps = 5", {"train": {"steps": 5}}),
        ("train.flip=true", {"train": {"flip": True}}),
        ("network.channel_mult=[1, 2]", {"network": {"channel_mult": [1, 2]}}),
        ("schedule.kind=cosine", {"schedule": {"kind": "cosine"}}),
        ('data.path="a=b"', {"data": {"path": "a=b"}}),
        ("data.path=/some/where=x", {"data": {"path": "/some/where=x"}}),
        ("sampling.sampler.variance=small", {"sampling": {"sampler": {"variance": "small"}}}),
        ("schedule.base={kind='cosine', steps=3}", {"schedule": {"base": {"kind": "cosine", "steps": 3}}}),
    ],
)
def test_an_assignment_is_toml_or_a_plain_word(text: str, tree: dict[str, Any]) -> None:
    assert assignment(text) == tree


@pytest.mark.parametrize("text", ["train", "train.lr", "lr=3", "=3", "train.=3", ".lr=3", "train..lr=3", ""])
def test_an_assignment_needs_section_key_and_value(text: str) -> None:
    with pytest.raises(WrongUse, match=r"should look like section\.key=value, for one --set train\.lr=1e-4$"):
        assignment(text)


# -------------------------------------------------------------------------------------------------------------- parts


def test_parts_that_do_not_fit_are_told() -> None:
    network = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(WrongUse, match="Epsilon cannot be used with ZeroTerminalSNR"):
        build_pipeline(tiny.config({"schedule": {"kind": "zero_terminal_snr", "base": "linear"}}), network)
    with pytest.raises(WrongUse, match=r"\[sampling.spacing\] steps = 51: this schedule allows 1 to 50"):
        build_pipeline(tiny.config({"sampling": {"spacing": {"kind": "strided", "steps": 51}}}), network)
    for height in (6, 1):
        with pytest.raises(WrongUse, match=rf"\[data\] height = {height}: the network's 3 levels need a multiple of 4"):
            build_network(tiny.config({"data": {"height": height}, "network": {"channel_mult": [1, 1, 1]}}))


def test_what_is_built_is_what_was_said() -> None:
    said = {
        "schedule": {"kind": "zero_terminal_snr", "base": {"kind": "given", "values": [0.1, 0.2, 0.3, 0.4]}},
        "parameterization": {"kind": "velocity", "time_shift": 0.0},
        "sampling": {
            "clip": {"limit": 0.5},
            "sampler": {"variance": "small"},
            "spacing": {"kind": "strided", "steps": 3},
        },
    }
    config = tiny.config(said)
    pipeline = build_pipeline(config, torch.nn.Conv2d(1, 1, 1))
    assert pipeline.denoiser.schedule == ZeroTerminalSNR(base=Given(values=(0.1, 0.2, 0.3, 0.4)))
    assert isinstance(pipeline.denoiser, Denoiser)
    assert pipeline.denoiser.parameterization == Velocity(time_shift=0.0)
    assert pipeline.denoiser.clip == Clip(limit=0.5)
    assert pipeline.sampler == Ancestral(variance=Small())
    assert pipeline.shape == (1, 8, 8) and pipeline.classes == tuple("0123456789")
    assert settings.build_denoiser(config, torch.nn.Conv2d(1, 1, 1), training=True).clip is None
    no_limit = tiny.config({"sampling": {"clip": "none"}})
    assert settings.build_denoiser(no_limit, torch.nn.Conv2d(1, 1, 1), training=False).clip is None
    assert tiny.config().sampling.sampler == Ancestral(variance=Large())


def test_the_seed_of_the_run_makes_its_weights_and_nobody_elses_numbers() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (build_network(tiny.config(seed=seed)).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    tiny.assert_same_bits(dict(first), dict(again))
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_a_learned_variance_doubles_the_output() -> None:
    """Facts of Nichol and Dhariwal's CIFAR-10 network: 35,749,766 parameters."""
    config = parse(merge(preset("cifar10"), assignment("objective.kind=hybrid")), "test")
    with torch.device("meta"):
        assert sum(p.numel() for p in build_network(config).parameters()) == 35_749_766


# ------------------------------------------------------------------------------------------------------------ presets


def test_these_are_shipped() -> None:
    assert {"digits", "cifar10", "lsun256", "celebahq256", "page"} <= set(presets())
    assert {preset_for(side) for side in range(1, 600)} <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_whole_goes_out_and_back_and_builds(name: str) -> None:
    config = parse(preset(name), name)
    assert parse(tomllib.loads(to_toml(config)), name) == config
    assert config.train.total_steps(1000) > 0
    whole = dataclasses.replace(config, data=dataclasses.replace(config.data, channels=config.data.channels or 3))
    with torch.device("meta"):
        network = build_network(whole)
    build_pipeline(whole, network.to_empty(device="cpu") if name == "digits" else network)
    text = (Path(settings.__file__).parent.parent / "presets" / f"{name}.toml").read_text()
    assert "# Score: " in text, "every preset says what it has reached, or that nobody has measured"


@pytest.mark.parametrize(
    ("name", "parameters"), [("cifar10", 35_746_307), ("lsun256", 113_673_219), ("celebahq256", 113_673_219)]
)
def test_the_papers_networks_have_the_papers_size(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_network(parse(preset(name), name))
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_ddim_papers_network_for_faces() -> None:
    """64², multipliers 1, 2, 2, 2, 4: 78,700,803 parameters."""
    tree = {"data": {"height": 64, "width": 64}, "network": {"channel_mult": [1, 2, 2, 2, 4]}}
    with torch.device("meta"):
        network = build_network(parse(merge(preset("cifar10"), tree), "test"))
    assert sum(p.numel() for p in network.parameters()) == 78_700_803


# The paper's appendix B, one row a setting.
TABLE = {
    #                                cifar10        lsun256 and celebahq256
    ("data", "height"): (32, 256),
    ("data", "width"): (32, 256),
    ("data", "channels"): (3, 3),
    ("network", "model_channels"): (128, 128),
    ("network", "channel_mult"): ((1, 2, 2, 2), (1, 1, 2, 2, 4, 4)),
    ("network", "num_res_blocks"): (2, 2),
    ("network", "attention_resolutions"): ((16,), (16,)),
    ("network", "dropout"): (0.1, 0.0),
    ("train", "batch_size"): (128, 64),
    ("train", "lr"): (2e-4, 2e-5),
    ("train", "warmup"): (5000, 5000),
    ("train", "ema_decay"): (0.9999, 0.9999),
    ("train", "ema_ramp"): (0.0, 0.0),
    ("train", "clip"): (1.0, 1.0),
    ("train", "flip"): (True, True),
    ("train", "label_dropout"): (0.0, 0.0),
    ("sampling", "clip"): (Clip(limit=1.0), Clip(limit=1.0)),
    ("sampling", "variance"): (Large(), Small()),
}


@pytest.mark.parametrize(
    ("name", "column", "steps"), [("cifar10", 0, 800_000), ("lsun256", 1, 1_200_000), ("celebahq256", 1, 500_000)]
)
def test_the_papers_presets_are_the_papers_table(name: str, column: int, steps: int) -> None:
    config = parse(preset(name), name)
    for (section, key), values in TABLE.items():
        assert getattr(getattr(config, section), key) == values[column], f"[{section}] {key}"
    assert config.train.steps == steps
    assert config.schedule.horizon == 1000
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert isinstance(config.schedule, Linear)
    torch.testing.assert_close(config.schedule.beta, beta, atol=0, rtol=1e-12)
    assert type(config.parameterization).__name__ == "Epsilon" and config.objective == Simple()


def test_the_page_preset_is_the_pages_model() -> None:
    from fromnoise.ddpm import DiffusionModel, NoiseSchedule

    config = parse(merge(preset("page"), {"data": {"channels": 3}}), "page")
    assert config.network == settings.UNetSettings(
        model_channels=128, num_res_blocks=2, attention_resolutions=(16, 8), channel_mult=(1, 2, 4, 4), dropout=0.0
    )
    with torch.device("meta"):
        ours, theirs = build_network(config), DiffusionModel().unet
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert isinstance(config.schedule, Linear)
    assert torch.equal(config.schedule.beta.float(), NoiseSchedule().beta)
    assert (config.data.height, config.data.width, config.train.lr, config.train.ema_decay) == (64, 64, 2e-4, 0.9999)
    assert (config.train.warmup, config.train.clip) == (0, 0.0)  # the page has neither
    assert 64 <= config.train.batch_size <= 128
    assert config.sampling.variance == Large()  # the page: variance = beta_t


@pytest.mark.parametrize(
    ("side", "name"),
    [(8, "digits"), (16, "small16"), (32, "small32"), (64, "small64"), (128, "small128"), (256, "small256")],
)
def test_the_usual_sizes_get_a_preset_of_their_own(side: int, name: str) -> None:
    assert preset_for(side) == name
    assert preset(name)["data"]["height"] == side


def test_a_preset_is_found_by_name_or_by_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nsteps = 3\n")
    assert preset(str(file)) == {"train": {"steps": 3}}
    with pytest.raises(WrongUse, match=r"^there is no preset 'cifar'; did you mean 'cifar10'\?$"):
        preset("cifar")
    with pytest.raises(WrongUse, match=r"^cannot read the settings in \S+none\.toml: "):
        preset(str(tmp_path / "none.toml"))
    with pytest.raises(WrongUse, match=r"^F is not valid TOML: .*\(at line 1, column 9\)$"):
        read_toml("steps = =", "F")


@pytest.mark.parametrize("side", [*range(8, 65, 8), 80, 96, 112, 128, 160, 192, 224, 256, 320])
def test_every_size_has_a_preset_that_fits(side: int) -> None:
    """Without a preset named, attention moves to the levels that pictures of this size have; nothing is mirrored."""
    config, _ = settle({"data": {"path": "digits", "height": side}}, preset_name=None, source="test")
    with torch.device("meta"):
        network = build_network(config)
    assert any("qkv" in name and "down" in name for name, _ in network.named_parameters())
    assert not config.train.flip and config.train.ema_ramp > 0
