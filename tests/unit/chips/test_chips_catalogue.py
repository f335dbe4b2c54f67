"""The catalogue: every chip is there under its name, figures are in canonical units, wrong files are refused.

The figures of some chips are held here a second time, typed by hand from the public sources.
"""

from __future__ import annotations

import json

import pytest

from supernode.chips import Chip, chip_from_mapping, chip_to_mapping, find_chip, load_catalogue
from supernode.chips.catalogue import parse_catalogue
from supernode.errors import ChipError

NAMES = {
    "hygon-z100", "hygon-z100l", "hygon-k100", "hygon-k100-ai", "hygon-k500sm-ai", "hygon-bw1000", "hygon-bw500sm",
    "hygon-bw1100", "huawei-ascend-910b2", "huawei-ascend-910b3", "huawei-ascend-910c", "cambricon-mlu370-x8",
    "cambricon-mlu590", "kunlunxin-p800", "metax-c500", "metax-c550", "metax-c600", "moore-threads-mtt-s4000",
    "moore-threads-mtt-s5000", "biren-br100", "biren-br106", "iluvatar-bi-v150", "enflame-s60", "enflame-t20",
    "nvidia-a100-80g-sxm", "nvidia-a800-80g-sxm", "nvidia-h100-80g-sxm", "nvidia-h800-80g-sxm", "nvidia-h20-96g",
    "nvidia-h200-141g-sxm", "nvidia-b200-sxm", "nvidia-gb200-nvl72", "amd-mi300x",
    "nvidia-v100-32g-sxm",
}  # fmt: skip
GIB = 1024**3


def test_the_catalogue_has_every_chip() -> None:
    assert set(load_catalogue()) == NAMES


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("hygon-bw1000", "memory_bytes", 64 * GIB),
        ("hygon-bw1000", "memory_bandwidth", 1.6e12),
        ("hygon-bw1000", "link_bandwidth", 224e9),
        ("hygon-bw1000", "link_domain", 8),
        ("hygon-bw1000", "scale_out_bandwidth", 50e9),  # 400 Gbit/s
        ("hygon-bw1000", "architecture", "gfx936"),
        ("hygon-bw1000", "resource_names", ("hygon.com/hcu", "hygon.com/dcu", "hygon.com/dcunum")),
        ("huawei-ascend-910c", "memory_bytes", 128 * GIB),
        ("huawei-ascend-910c", "link_domain", 384),
        ("nvidia-a100-80g-sxm", "memory_bandwidth", 2039e9),
        ("nvidia-a100-80g-sxm", "scale_out_bandwidth", 25e9),
        ("nvidia-gb200-nvl72", "memory_bytes", None),  # only recalled in the data
        ("amd-mi300x", "compute_units", 304),
    ],
)
def test_figures_are_in_canonical_units(name: str, attribute: str, value: object) -> None:
    assert getattr(find_chip(name), attribute) == value


@pytest.mark.parametrize(
    ("name", "dtype", "flops"),
    [
        ("hygon-bw1000", "bf16", 480e12),
        ("amd-mi300x", "bf16", 1307e12),
        ("nvidia-h800-80g-sxm", "bf16", 989e12),
        ("hygon-bw1000", "f64", 30e12),
        ("huawei-ascend-910c", "bf16", 752e12),
        ("nvidia-a100-80g-sxm", "f32", 19.5e12),
        ("nvidia-a100-80g-sxm", "int8", 624e12),
        ("nvidia-h100-80g-sxm", "fp8", 1979e12),
        ("hygon-k100-ai", "tf32", 96e12),
    ],
)
def test_peaks(name: str, dtype: str, flops: float) -> None:
    assert find_chip(name).peak_flops(dtype) == flops


def test_every_figure_has_a_source_and_nothing_unverified_stands_here() -> None:
    for chip in load_catalogue().values():
        figures = {f"tflops.{dtype}" for dtype in chip.tflops}
        for name in ("memory_bytes", "memory_bandwidth", "link_bandwidth", "link_domain", "scale_out_bandwidth"):
            if getattr(chip, name) is not None:
                figures.add(name)
        assert figures <= set(chip.sources), chip.name
        for source in chip.sources.values():
            assert source.confidence in ("verified", "secondary")
            assert source.text
            assert "stored copy" not in source.text
        assert chip.resource_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("BW1000", "hygon-bw1000"),
        ("bowen", "hygon-bw1000"),
        ("Hygon BW1000", "hygon-bw1000"),
        ("UBB BW1000", "hygon-bw1000"),
        ("k100_ai", "hygon-k100-ai"),
        ("K100 AI", "hygon-k100-ai"),
        ("Ascend 910C", "huawei-ascend-910c"),
        ("GB200 (NVL72)", "nvidia-gb200-nvl72"),
        ("h100", "nvidia-h100-80g-sxm"),
    ],
)
def test_aliases(text: str, name: str) -> None:
    assert find_chip(text).name == name


def test_an_unknown_name_lists_near_ones() -> None:
    with pytest.raises(ChipError, match="hygon-bw1000") as caught:
        find_chip("hygon-bw100")
    assert "chipSpec" in str(caught.value)
    with pytest.raises(ChipError, match="supernode chips"):
        find_chip("zzzzzzzzzz")
    with pytest.raises(ChipError):
        find_chip("")


def test_an_alias_of_two_chips_names_both() -> None:
    with pytest.raises(ChipError, match="huawei-ascend-910b2, huawei-ascend-910b3"):
        find_chip("910B")


def test_a_missing_peak_names_chip_and_figure_and_says_what_to_write() -> None:
    with pytest.raises(ChipError, match=r"bf16 peak of chip hygon-k100 .*known: f64, f16.*tflops: \{bf16: <TFLOPS>\}"):
        find_chip("hygon-k100").peak_flops("bf16")
    with pytest.raises(ChipError, match="does not compute in f64"):
        find_chip("biren-br100").peak_flops("f64")
    with pytest.raises(ChipError, match=r"'float32'.*formats are f64, f32"):
        find_chip("hygon-bw1000").peak_flops("float32")
    with pytest.raises(ChipError, match=r"memory bandwidth of chip metax-c500 .*memoryGBps"):
        find_chip("metax-c500").figure("memory_bandwidth")


def test_sixteen_bit_formats_stand_in_only_where_said() -> None:
    with pytest.raises(ChipError):
        Chip("c", tflops={"f16": 1.0}).peak_flops("bf16")
    assert Chip("c", tflops={"f16": 1.0}, sixteen_bit_alike=True).peak_flops("bf16") == 1e12
    assert not any(chip.sixteen_bit_alike for chip in load_catalogue().values())


SPEC = {
    "name": "my-chip",
    "memoryGiB": 31.98,
    "memoryGBps": 900,
    "tflops": {"bf16": 100.5, "f32": 25},
    "linkGBps": 112.5,
    "linkDomain": 4,
    "scaleOutGBps": 12.5,
    "resourceNames": ["example.com/chip"],
}


def test_a_chip_from_a_chip_spec() -> None:
    chip = chip_from_mapping(SPEC)
    assert chip.name == "my-chip"
    assert chip.memory_bytes == round(31.98 * GIB)
    assert chip.memory_bandwidth == 900e9
    assert chip.peak_flops("bf16") == 100.5e12
    assert chip.link_bandwidth == 112.5e9
    assert (chip.link_domain, chip.scale_out_bandwidth) == (4, 12.5e9)
    assert chip.resource_names == ("example.com/chip",)
    assert chip.sources["tflops.bf16"].confidence == "user"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_chip_survives_the_way_through_json(name: str) -> None:
    chip = find_chip(name)
    back = chip_from_mapping(json.loads(json.dumps(chip_to_mapping(chip))))
    for attribute in ("name", "memory_bytes", "memory_bandwidth", "link_bandwidth", "link_domain", "resource_names"):
        assert getattr(back, attribute) == getattr(chip, attribute)
    assert {k: v for k, v in chip.tflops.items() if v} == dict(back.tflops)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "chipSpec.name"),
        ({"memoryGiB": 0}, "chipSpec.memoryGiB"),
        ({"memoryGiB": True}, "chipSpec.memoryGiB"),
        ({"memoryGBps": float("nan")}, "chipSpec.memoryGBps"),
        ({"linkGBps": "fast"}, "chipSpec.linkGBps"),
        ({"tflops": {"float32": 1}}, "chipSpec.tflops.float32"),
        ({"tflops": {"f32": -1}}, "chipSpec.tflops.f32"),
        ({"tflops": [1]}, "chipSpec.tflops"),
        ({"resourceNames": "example.com/chip"}, "chipSpec.resourceNames"),
        ({"memory": 3}, "chipSpec.memory"),
    ],
)
def test_a_wrong_chip_spec_names_the_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(ChipError) as caught:
        chip_from_mapping({**SPEC, **change})
    assert caught.value.field == field


def test_chips_are_values() -> None:
    chip = chip_from_mapping(SPEC)
    assert chip == chip_from_mapping(dict(SPEC))
    assert hash(chip) == hash(chip_from_mapping(dict(SPEC)))
    assert chip != chip_from_mapping({**SPEC, "linkDomain": 2})
    with pytest.raises(TypeError):
        chip.tflops["bf16"] = 1.0  # type: ignore[index]
    with pytest.raises(TypeError):
        load_catalogue()["mine"] = chip  # type: ignore[index]


GOOD = """
[sources]
here = "typed by hand"
[[chip]]
name = "a-b"
vendor = "A"
model = "B"
[chip.figures]
memory_gib = { value = 2, confidence = "verified", sources = ["here"] }
"""


def test_a_catalogue_file() -> None:
    chip = parse_catalogue(GOOD)["a-b"]
    assert (chip.memory_bytes, chip.sources["memory_bytes"]) == (2 * GIB, ("verified", "typed by hand"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a-b"', '"A B"', "lower-case"),
        ("value = 2", "value = -2", "positive"),
        ("value = 2", "value = 0", "positive"),
        ("value = 2", 'value = "2"', "positive"),
        ("verified", "recalled", "recalled"),
        ('["here"]', '["there"]', "there"),
        ('["here"]', "[]", "known sources"),
        ("memory_gib", "memory_gb", "memory_gb"),
        ("[sources]", "[sources", "TOML"),
        ("", GOOD[GOOD.index("[[chip]]") :], "twice"),
    ],
)
def test_a_catalogue_that_breaks_its_rules_is_refused(old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new, 1) if old else GOOD + new
    with pytest.raises(ChipError, match=message):
        parse_catalogue(text)
