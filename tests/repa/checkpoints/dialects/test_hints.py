"""What a file does not tell: it is asked for, and what is said is checked."""

import json
from dataclasses import fields

import pytest
import torch
from golden_files import GOLDENS_DIR
from ldm_autoencoder import random_state

from repa import SIT_SIZES, SiT
from repa.autoencoders import find_autoencoder
from repa.autoencoders.latent_space import SD_LATENTS
from repa.checkpoints import export_weights, load_model, read_checkpoint
from repa.checkpoints.dialects import DIALECTS
from repa.checkpoints.export import write_weights
from repa.checkpoints.names import SAMPLED, SAMPLING, DialectName
from repa.checkpoints.settings import CheckpointSettings, describe
from repa.errors import CheckpointFormatError, UnknownNameError
from repa.generation import Protocol, SampleConfig
from repa.registry import entries, load_registry

FOLDER = GOLDENS_DIR / "dialects"
PLAIN = {"input_size": 8, "in_channels": 4, "num_classes": 5, "encoder_depth": 1}
PICO = {**SIT_SIZES["SiT-Pico/2"], **PLAIN, "target_dims": []}


def tensors(**changes):
    return SiT(**{**PICO, **changes}).state_dict()


def saved(path, content):
    torch.save(content, path)
    return path


def refusal(file, **hints):
    with pytest.raises(CheckpointFormatError) as caught:
        read_checkpoint(file, **hints)
    text = str(caught.value)
    assert text.startswith(str(file)) and "\n" not in text
    return text


def test_names_that_may_be_said_are_the_dialects():
    assert set(DIALECTS) == set(DialectName.__args__)
    assert set(SAMPLING) <= set(DIALECTS)


def test_bare_file_of_sit_or_dit_is_asked_whose_it_is(tmp_path):
    file = saved(tmp_path / "x.pt", tensors(out_channels=8))
    assert refusal(file).endswith("Say --dialect sit or dit.")
    found = {name: read_checkpoint(file, dialect=name) for name in ("sit", "dit")}
    assert [c.prediction for c in found.values()] == ["velocity", "noise"]
    assert {c.settings.guided_channels for c in found.values()} == {3}


@pytest.mark.parametrize("dialect", ["dit", "self-flow", "ours", "sra", "internal-guidance"])
def test_dialect_that_a_file_cannot_speak_is_refused(tmp_path, dialect):
    file = saved(tmp_path / "x.pt", tensors(target_dims=[7]))
    wrong = f"does not speak the dialect {dialect}: its tensors are those of repa"
    assert wrong in refusal(file, dialect=dialect)


@pytest.mark.parametrize(
    ("name", "hints", "dialects"),
    [
        ("sit_train", {"num_heads": 3}, ("sit", "repa")),
        (
            "irepa_mlp",
            {"num_heads": 3, "latents": FOLDER / "irepa_mlp_latents_stats.pt"},
            ("repa",),
        ),
    ],
)
def test_file_that_describes_itself_is_read_by_no_other_dialect(tmp_path, name, hints, dialects):
    # Turned once more, time would run from the image to the noise; read as REPA's, the statistics
    # of its latents would be lost.
    out = export_weights(FOLDER / f"{name}.pt", tmp_path / "x.safetensors", **hints)
    for dialect in dialects:
        assert "says what it is: leave out --dialect" in refusal(out, dialect=dialect, num_heads=3)
    assert read_checkpoint(out, dialect="ours").dialect == "ours"
    with pytest.raises(CheckpointFormatError, match="leave out --dialect"):
        read_checkpoint("digits", dialect=dialects[0])


def test_unknown_dialect_is_told_the_closest(tmp_path):
    file = saved(tmp_path / "x.pt", tensors())
    assert "unknown dialect 'ripa'; did you mean 'repa'" in refusal(file, dialect="ripa")


def test_heads_that_no_named_size_tells_are_asked_for_and_checked():
    file = FOLDER / "repa_train.pt"
    assert "unknown: say --num-heads" in refusal(file)
    assert read_checkpoint(file, num_heads=2).settings.model["num_heads"] == 2
    assert "its width 24 is no multiple of 5 heads" in refusal(file, num_heads=5)
    normed = FOLDER / "repa_qknorm.pt"
    assert read_checkpoint(normed).settings.model["num_heads"] == 4
    assert "its tensors have 4 heads, not 2" in refusal(normed, num_heads=2)


def test_statistics_of_latents_are_asked_for_where_a_file_needs_them(tmp_path):
    file = FOLDER / "irepa_conv.pt"
    assert "say --latents sdvae-ft-mse-f8d4" in refusal(file, num_heads=4)
    named = read_checkpoint(file, num_heads=4, latents="sd-vae-ft-mse").latent_space
    assert (named.autoencoder, named.scale) == ("sd-vae-ft-mse", SD_LATENTS.scale)
    with pytest.raises(UnknownNameError, match="unknown latents or file 'sd-vae'"):
        read_checkpoint(file, num_heads=4, latents="sd-vae")


def test_latents_of_a_model_of_pixels_are_refused(tmp_path):
    with pytest.raises(CheckpointFormatError, match="pixels, not latents: leave out --latents"):
        read_checkpoint("digits", latents="sd-vae-ft-mse")
    three = {"latents_scale": torch.ones(3), "latents_bias": torch.zeros(3)}
    file = saved(tmp_path / "stats.pt", three)
    with pytest.raises(CheckpointFormatError, match="makes pixels"):
        read_checkpoint("digits", latents=file)
    # Latents of three channels there are as well, and nothing describes a bare file.
    bare = saved(tmp_path / "x.pt", tensors(in_channels=3))
    assert not read_checkpoint(bare, latents=file).latent_space.is_pixels
    assert "makes pixels" in refusal(bare, latents="sd-vae-ft-ema")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"latents_scale": torch.ones(4)}, "latents_bias is missing"),
        (
            {"latents_scale": torch.ones(2, 4), "latents_bias": torch.ones(4)},
            "one number a channel",
        ),
        ({"latents_scale": torch.ones(4), "latents_bias": torch.ones(3)}, "4 scales and 3 biases"),
        ({"latents_scale": torch.zeros(4), "latents_bias": torch.ones(4)}, "not above 0"),
        ({"latents_scale": torch.ones(4), "latents_bias": torch.ones(4) * torch.nan}, "not finite"),
    ],
)
def test_damaged_statistics_are_refused_by_the_name_of_their_file(tmp_path, content, message):
    file = saved(tmp_path / "stats.pt", content)
    with pytest.raises(CheckpointFormatError, match=f"stats.pt: .*{message}"):
        read_checkpoint(FOLDER / "irepa_mlp.pt", num_heads=3, latents=file)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("wg_norm.weight", "REG"),
        ("r_embedder.mlp.0.weight", "MeanFlow"),
        ("middle_blocks.0.attn.qkv.weight", "SPRINT"),
        ("blocks.0.attn.v1_lambda", "SR-DiT"),
        ("s_embedder.proj.weight", "DDT"),
    ],
)
def test_known_networks_that_are_not_supported_are_refused_by_name(tmp_path, key, name):
    file = saved(tmp_path / "x.pt", {**tensors(), key: torch.ones(1)})
    for hints in ({}, {"dialect": "repa"}):
        assert f"is {name}'s" in refusal(file, **hints)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (
            ["encoder.conv_in.weight", "decoder.mid.block_1.conv1.weight"],
            "an autoencoder of images",
        ),
        (
            ["first_stage_model.decoder.mid.block_1.conv1.weight"],
            "an autoencoder of images (it has first_stage_model.",
        ),
        (
            ["decoder.mid_block.resnets.0.conv1.weight"],
            "an autoencoder of images in diffusers' names; the folder with its config.json goes to",
        ),
        (["latents_scale", "latents_bias"], "statistics of latents"),
        (["model.joint_blocks.0.x_block.attn.qkv.weight"], "a network of text and image"),
        *(
            (["x_embedder.proj.weight", "final_layer.linear.weight", key], "a network of text and")
            for key in (
                "context_embedder.weight",
                "joint_blocks.0.x_block.attn.qkv.weight",
                "y_embedder.y_proj.fc1.weight",
                "cap_embedder.0.weight",
                "txt_in.weight",
            )
        ),
        (
            [
                "first_stage_model.decoder.mid.block_1.conv1.weight",
                "model.diffusion_model.x_embedder.proj.weight",
                "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
            ],
            "a network of text and image",
        ),
        (
            [
                "first_stage_model.decoder.mid.block_1.conv1.weight",
                "model.diffusion_model.input_blocks.0.0.weight",
            ],
            "a U-Net",
        ),
        (["time_embed.0.weight", "input_blocks.0.0.weight"], "a U-Net"),
        (["model.embed_tokens.weight", "lm_head.weight"], "a language model"),
        (
            ["cls_token", "pos_embed", "mask_token", "blocks.0.attn.qkv.weight"],
            "an encoder of images",
        ),
        (["mask_token", "decoder_blocks.0.norm1.weight", "cls_token"], "an encoder of images"),
        (["dinov2.embeddings.mask_token", "embeddings.cls_token"], "an encoder of images"),
    ],
)
def test_file_of_another_task_is_named_by_its_keys(tmp_path, keys, what):
    file = saved(tmp_path / "x.pt", {key: torch.ones(2) for key in keys})
    assert f"holds {what}" in refusal(file) and "no SiT" in refusal(file)


def test_autoencoder_that_can_be_given_as_such_says_so_and_others_do_not(tmp_path):
    state = random_state()
    for prefix in ("", "first_stage_model."):
        file = saved(tmp_path / "x.pt", {prefix + name: each for name, each in state.items()})
        assert "an autoencoder of images; it goes to --autoencoder (it has" in refusal(file)
        assert find_autoencoder(file).latent_channels == 4
    decoder = {name: each for name, each in state.items() if name.startswith("decoder.")}
    assert "--autoencoder" not in refusal(saved(tmp_path / "x.pt", decoder))


def test_tensors_of_no_known_network_are_named(tmp_path):
    file = saved(tmp_path / "x.pt", {f"layer.{i}.w": torch.ones(1) for i in range(6)})
    assert "it begins with layer.0.w, layer.1.w, layer.2.w, layer.3.w)" in refusal(file)


def test_recorded_reg_is_refused_by_name():
    assert "is REG's" in refusal(FOLDER / "reg_train.pt")


def test_raw_weights_of_a_training_run_are_not_taken_for_its_average(tmp_path):
    file = saved(tmp_path / "x.pt", {"model": tensors(), "opt": {}, "steps": 3})
    assert "raw weights of a training run under 'model'" in refusal(file)
    assert read_checkpoint(saved(file, {"model": tensors()})).dialect == "repa"


def test_table_without_a_row_for_no_label_is_refused(tmp_path):
    file = saved(tmp_path / "x.pt", {"ema": tensors(), "args": {"num_classes": 6}})
    assert "no row for no label" in refusal(file)


def test_sit_of_another_path_or_prediction_is_refused(tmp_path):
    args = {"path_type": "VP", "prediction": "velocity", "image_size": 64}
    file = saved(tmp_path / "x.pt", {"ema": tensors(out_channels=8), "args": args})
    assert "path VP, which is not supported" in refusal(file)
    saved(file, {"ema": tensors(out_channels=8), "args": {**args, "prediction": "score"}})
    assert "predict the score, not the velocity" in refusal(file)


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("sit_train", {"num_heads": 3}),
        ("dit_train", {"num_heads": 3}),
        ("ig_train", {"num_heads": 4, "encoder_depth": 2}),
        ("irepa_conv", {"num_heads": 4, "latents": FOLDER / "irepa_conv_latents_stats.pt"}),
        ("repae_ldm", {"num_heads": 4}),
        ("selfflow_wrapped", {"num_heads": 3}),
    ],
)
def test_export_of_another_dialect_needs_no_hints_and_means_the_same(tmp_path, name, hints):
    first = load_model(FOLDER / f"{name}.pt", **hints)
    out = export_weights(FOLDER / f"{name}.pt", tmp_path / "x.safetensors", **hints)
    again = load_model(out)
    for what in ("prediction", "latent_space", "guided_channels"):
        assert getattr(again.settings, what) == getattr(first.settings, what)
    assert (again.dialect, again.settings.path_type) == ("ours", first.settings.path_type)
    model = first.settings.model
    x = torch.randn(2, model["in_channels"], model["input_size"], model["input_size"])
    labels = torch.tensor([0, 1])
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        expected = first.velocity_model(x, t, labels)
        assert torch.equal(again.velocity_model(x, t, labels), expected)


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("repa_train", {"num_heads": 3}),
        ("repa_legacy", {"num_heads": 4}),
        ("sit_release", {"num_heads": 3, "dialect": "sit"}),
        ("dit_release", {"num_heads": 3, "dialect": "dit"}),
        ("haste_train", {"num_heads": 3}),
        ("ig_train", {"num_heads": 4}),
        ("sra_dit", {"num_heads": 4}),
        ("selfflow_release", {"num_heads": 3}),
        ("irepa_mlp", {"num_heads": 3, "latents": str(FOLDER / "irepa_mlp_latents_stats.pt")}),
    ],
)
def test_settings_of_sampling_survive_an_export(tmp_path, name, hints):
    file = FOLDER / f"{name}.pt"
    out = export_weights(file, tmp_path / "x.safetensors", **hints)
    first, again = Protocol.for_model(file, **hints), Protocol.for_model(out)
    assert again == first
    named = read_checkpoint(file, **hints).dialect in SAMPLING or name == "sra_dit"
    assert (first != Protocol()) == named
    # An export of an export, too.
    twice = export_weights(out, tmp_path / "y.safetensors")
    assert Protocol.for_model(twice) == first


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Register a recorded file, as if it had been put into the cache by hand."""
    monkeypatch.setenv("REPA_CACHE", str(tmp_path / "cache"))

    def register(name, section="checkpoints", **entry):
        plain = {"url": None, "sha256": None, "size": None, "model": None, "dataset": None}
        content = load_registry()
        content = {
            **content,
            section: {**content[section], "it": {**plain, **entry, "file": "it.pt"}},
        }
        monkeypatch.setattr(entries, "load_registry", lambda: content)
        path = tmp_path / "cache" / section / "it.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((FOLDER / f"{name}.pt").read_bytes())

    return register


def test_registered_file_is_read_by_the_dialect_that_its_entry_says(registered, tmp_path):
    registered("sit_release", dialect="sit", autoencoder="sd-vae-ft-ema")
    checkpoint = read_checkpoint("it", num_heads=3)
    assert (checkpoint.name, checkpoint.dialect) == ("it", "sit")
    assert checkpoint.settings.guided_channels == 3
    assert SampleConfig.for_model("it", num_heads=3).cfg_scale == 1.5
    known = {"what": "IG", "autoencoder": "sd-vae-ft-ema", "path_type": "linear"}
    registered("ig_train", dialect="internal-guidance", encoder_depth=2, **known)
    checkpoint = read_checkpoint("it", num_heads=4)
    assert checkpoint.assumed == () and checkpoint.settings.model["encoder_depth"] == 2
    assert {checkpoint.told[n] for n in ("dialect", "encoder_depth")} == {"the registry"}
    with pytest.raises(CheckpointFormatError, match="it is registered as internal-guidance"):
        read_checkpoint("it", num_heads=4, dialect="repa")
    # Nothing is fetched for what is refused: there is no network in a test.
    with pytest.raises(CheckpointFormatError, match="dit-xl-2-256 is registered as dit: leave out"):
        read_checkpoint("dit-xl-2-256", dialect="sit")


def test_settings_of_an_entry_come_before_the_dialect_s_and_survive_an_export(registered, tmp_path):
    said = {"cfg_scale": 2.2, "guidance_interval": [0.0, 0.65]}
    registered("repae_ldm", dialect="repa-e", autoencoder="e2e-vavae", sampling=said)
    assert read_checkpoint("it", num_heads=4).latent_space.autoencoder == "e2e-vavae"
    first = Protocol.for_model("it", num_heads=4)
    assert (first.cfg_scale, first.guidance_interval) == (2.2, (0.0, 0.65))
    out = export_weights("it", tmp_path / "x.safetensors", num_heads=4)
    assert Protocol.for_model(out) == first
    assert read_checkpoint(out).latent_space.autoencoder == "e2e-vavae"


def test_statistics_of_latents_may_be_said_by_a_registered_name(registered):
    registered("irepa_mlp_latents_stats", "latents", autoencoder="sd-vae-ft-mse")
    file = FOLDER / "irepa_mlp.pt"
    named = read_checkpoint(file, num_heads=3, latents="it")
    said = read_checkpoint(file, num_heads=3, latents=FOLDER / "irepa_mlp_latents_stats.pt")
    assert named.latent_space == said.latent_space


def test_settings_that_a_file_may_say_are_those_that_say_how():
    which = {"seed", "batch_size", "rng", "world_size", "precision", "tf32", "compile"}
    assert set(SAMPLED) == {field.name for field in fields(Protocol)} - which


def described(file, sampling):
    settings = CheckpointSettings(model=PICO, latent_space=SD_LATENTS)
    write_weights(file, tensors(), {**describe(settings), "sampling": sampling})
    return file


def test_a_file_says_how_it_is_sampled_and_nothing_else(tmp_path):
    said = {"cfg_scale": 3, "out": "/elsewhere.npz", "overwrite": True, "seed": 7, "new": 1}
    file = described(tmp_path / "x.safetensors", said)
    config = SampleConfig.for_model(file)
    assert config == SampleConfig(model=file, cfg_scale=3.0)
    assert SampleConfig.for_model(file, cfg_scale=1.2).cfg_scale == 1.2


@pytest.mark.parametrize(
    "sampling",
    [
        {"cfg_scale": "strong"},
        {"cfg_scale": -1},
        {"solver": "eular"},
        {"guidance_interval": 0.5},
        {"guidance_interval": [0.5, "x"]},
        {"labels": {"a": 1}},
        {"num_steps": None},
        "much",
    ],
)
def test_odd_settings_in_a_file_are_refused_by_its_name(tmp_path, sampling):
    file = described(tmp_path / "x.safetensors", sampling)
    with pytest.raises(CheckpointFormatError, match=r"x\.safetensors: .*sampling") as caught:
        SampleConfig.for_model(file)
    assert "\n" not in str(caught.value)


def test_authors_settings_are_the_defaults_of_their_files_and_what_is_given_beats_them():
    file = str(FOLDER / "haste_train.pt")
    config = SampleConfig.for_model(file, num_heads=3)
    assert (config.cfg_scale, config.guidance_interval) == (1.65, (0.0, 0.72))
    assert SampleConfig.for_model(file, num_heads=3, cfg_scale=2).cfg_scale == 2


def test_description_that_guides_fewer_channels_is_of_a_format_that_older_toolkits_refuse(tmp_path):
    from safetensors import safe_open

    out = export_weights(FOLDER / "sit_train.pt", tmp_path / "x.safetensors", num_heads=3)
    with safe_open(out, framework="pt") as file:
        described = json.loads(file.metadata()["repa"])
    assert (described["format"], described["guided_channels"]) == (3, 3)
