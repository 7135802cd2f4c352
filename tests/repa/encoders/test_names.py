import re
import subprocess
import sys
from pathlib import Path

import pytest

from repa.encoders.names import EncoderName, encoder_list, parse_encoders
from repa.errors import SettingError
from repa.registry import entry_names


def test_names_are_registered_ones_or_timms_and_may_have_a_file_of_weights():
    assert parse_encoders("dinov2-vit-b, timm:resnet18.a1_in1k ,clip-vit-l=/w/a=b.pth") == [
        EncoderName("dinov2-vit-b"),
        EncoderName("timm:resnet18.a1_in1k"),
        EncoderName("clip-vit-l", Path("/w/a=b.pth")),
    ]
    assert parse_encoders("none") == []
    assert [str(name) for name in parse_encoders("clip-vit-l=/w/x.pth,timm:resnet18")] == [
        "clip-vit-l=/w/x.pth",
        "timm:resnet18",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("clip-vit-L", "unknown encoder 'clip-vit-L'; did you mean 'clip-vit-l'"),
        ("", "unknown encoder ''"),
        ("dinov2-vit-b,", "unknown encoder ''"),
        ("timm:", "unknown encoder 'timm:'"),
        ("dinov2-vit-b,none", "unknown encoder 'none'"),
        ("dinov2-vit-b=", "the path of the weights is missing after ="),
        ("dinov2-vit-b,mae-vit-l,dinov2-vit-b=x.pth", "dinov2-vit-b is named twice"),
        ("mocov3-vit-b", "mocov3-vit-b: timm has no network of MoCo v3"),
    ],
)
def test_names_that_are_none_are_an_error_of_the_encoder_in_one_line(names, message):
    with pytest.raises(SettingError, match=message) as refusal:
        parse_encoders(names)
    assert refusal.value.field == "encoder" and "\n" not in str(refusal.value)


def test_the_list_of_the_help_holds_every_registered_name_once():
    names = []
    for group in encoder_list().split(", "):
        first, *sizes = group.split("|")
        kind = re.fullmatch(r"(.*-vit-|efficientnet-lite).+", first)[1]
        names += [first, *(kind + size for size in sizes)]
    assert names == entry_names("encoders")


def test_names_are_read_without_torch():
    code = "import sys, repa.encoders.names as n; n.parse_encoders('timm:x'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "repa.encoders.names" in done.stdout and "torch" not in done.stdout.split()
