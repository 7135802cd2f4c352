"""A dry run: what it tells against the run itself, the reasons for which both end, no traces."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import repa.generation.planning.dry_run as planning
from repa import SiT
from repa.errors import InUseError, RepaError, SettingError
from repa.generation import SampleConfig, dry_run, generate
from repa.generation.job import Job
from repa.generation.planning import measuring
from repa.generation.planning.measuring import Line, Timing
from repa.generation.sample_files.opening import Outlook, check_sample_file
from repa_base.in_place.marks_file import lock_marks
from repa_base.processes import Processes

SIZES = {"input_size": 8, "patch_size": 4, "in_channels": 3, "hidden_size": 24, "depth": 1}
SIZES |= {"num_heads": 3, "num_classes": 5, "encoder_depth": 1, "target_dims": []}


def save(path, **changes):
    torch.manual_seed(0)
    sizes = {**SIZES, **changes}
    model = SiT(**sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    said = {"format": 1, "model": sizes, "path_type": "linear", "dataset": "x"}
    save_file(model.state_dict(), path, metadata={"repa": json.dumps(said)})
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def config(model, tmp_path):
    given = {"num_images": 20, "num_steps": 4, "batch_size": 7, "device": "cpu"}
    return SampleConfig(model=model, **given, out=tmp_path / "out" / "samples.npz")


def plan_of(config, **options):
    return dry_run(config, measured=False, **options)


def traces(folder):
    """Every file of a folder with its bytes and times, but for when it was read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[path] = (content, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return found


def interrupted(config, at):
    def stop(done, total):
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config, progress=stop)


def test_a_dry_run_tells_what_the_run_will_be_and_writes_nothing(config, tmp_path):
    plan = dry_run(config)
    assert not list(tmp_path.iterdir())
    # Of 1, 0.68, 0.36 and 0.04, three are in [0, 0.7].
    assert (plan.evaluations, plan.network_rows) == ((1, 3), 7)
    assert plan.output.num_done == 0 and not plan.output.was_finished
    assert plan.timing.network.measured_rows == 14 and plan.timing.decoder is None
    parameters = sum(tensor.nbytes for tensor in SiT(**SIZES).state_dict().values())
    assert plan.timing.weight_bytes == parameters
    made = generate(config).path
    assert plan.output.file_bytes == made.stat().st_size == plan.output.needed_bytes
    with np.load(made) as file:
        assert plan.manifest == json.loads(str(file["manifest"]))
    before = traces(tmp_path)
    again = dry_run(config)
    assert again.output.was_finished and again.unmeasured == "it is finished"
    assert traces(tmp_path) == before
    json.dumps(plan.to_dict())


def test_a_guide_without_a_middle_head_is_measured_beside_internal_guidance(config, tmp_path):
    model = save(tmp_path / "two-heads.safetensors", internal_head=True)
    plan = dry_run(replace(config, model=model, internal_scale=1.4, guide=config.model))
    assert plan.timing.guide.measured_rows == 7


def test_a_run_whose_progress_a_kill_left_is_finished(config):
    progress = config.out.with_name("samples.npz.progress")
    interrupted(config, 20)
    left = progress.read_bytes()
    generate(config)
    progress.write_bytes(left)
    before = traces(config.out.parent)
    assert plan_of(config).output.was_finished
    assert traces(config.out.parent) == before
    assert generate(config).was_finished


def test_departures_are_from_the_published_protocol_and_seeds_are_none(config):
    assert plan_of(replace(config, num_steps=250, seed=8, batch_size=3)).departures == {}
    other = replace(config, solver="sa", times="karras", precision="bf16")
    assert plan_of(other).departures == {
        "num_steps": (250, 4),
        "solver": ("sde", "sa"),
        "times": ("published", "karras"),
        "precision": ("fp32", "bf16"),
    }
    adaptive = plan_of(replace(config, solver="dopri5"))
    assert adaptive.departures == {"solver": ("sde", "dopri5")}
    assert adaptive.evaluations is None is adaptive.seconds is adaptive.network_rows


@pytest.mark.parametrize("longer", [20, 30])
def test_an_unfinished_run_is_told_by_the_images_that_stay(config, tmp_path, longer):
    interrupted(config, 14)
    before = traces(tmp_path)
    plan = plan_of(replace(config, num_images=longer, batch_size=5))
    assert (plan.output.num_done, plan.output.block_size) == (14, 7)
    assert traces(tmp_path) == before
    done = []
    more = replace(config, num_images=longer)
    made = generate(more, progress=lambda now, _: done.append(now)).path
    assert done[0] == 14 and made.stat().st_size == plan.output.file_bytes
    grown = plan_of(replace(config, num_images=longer + 8))
    assert grown.output.num_done == longer // 7 * 7 and grown.output.block_size == 7


def test_of_a_run_that_is_to_be_longer_whole_blocks_stay(config):
    interrupted(config, 20)  # all images, before the file was completed
    assert plan_of(config).output.num_done == 20
    longer = replace(config, num_images=30)
    assert plan_of(longer).output.num_done == 14
    done = []
    generate(longer, progress=lambda now, _: done.append(now))
    assert done[0] == 14


def test_a_run_without_any_image_begins_anew_in_its_own_blocks(config):
    interrupted(config, 0)
    plan = plan_of(replace(config, batch_size=5))
    assert (plan.output.num_done, plan.output.block_size) == (0, 5)


def refusals(config, tmp_path):
    """Settings for which a run ends before its first image."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "text.npz").write_text("precious")
    (tmp_path / "odd.npz.part").write_text("precious")
    yield replace(config, labels=(7,))
    yield replace(config, guide=save(tmp_path / "guide.safetensors", in_channels=4))
    yield replace(config, precision="fp16")
    yield replace(config, autoencoder="sd-vae-ft-ema")
    yield replace(config, internal_scale=2.0)
    yield replace(config, solver="ddpm")
    yield replace(config, model="none.safetensors")
    yield replace(config, device="cuda:99")
    yield replace(config, model=str(tmp_path / "text.npz"))
    yield replace(config, out=tmp_path / "text.npz")
    yield replace(config, out=tmp_path / "odd.npz")
    yield replace(config, out=tmp_path / "file" / "samples.npz")
    yield replace(config, out=tmp_path / "file" / "deep" / "samples.npz")
    yield replace(config, out=tmp_path / f"{'x' * 240}.npz")
    generate(replace(config, out=tmp_path / "done.npz", num_images=2, batch_size=2))
    yield replace(config, out=tmp_path / "done.npz", cfg_scale=3.0)
    begun = replace(config, out=tmp_path / "begun.npz")
    interrupted(begun, 7)
    yield replace(begun, seed=1)


def test_it_ends_for_the_reasons_of_the_run_in_the_same_words(config, tmp_path):
    count = 0
    for refused in refusals(config, tmp_path):
        before = traces(tmp_path)
        with pytest.raises((RepaError, OSError)) as planned:
            dry_run(refused)
        assert traces(tmp_path) == before
        with pytest.raises((RepaError, OSError)) as run:
            generate(refused)
        assert type(planned.value) is type(run.value)
        assert str(planned.value) == str(run.value)
        count += 1
    assert count == 16


def test_a_run_at_work_is_left_at_work(config):
    interrupted(config, 7)
    progress = config.out.with_name("samples.npz.progress")
    lock = lock_marks(progress, config.out)
    try:
        with pytest.raises(InUseError, match="is being written by another run; wait"):
            plan_of(config)
    finally:
        os.close(lock)
    assert plan_of(config).output.num_done == 7


def test_a_folder_that_cannot_be_written_is_told_without_trying(config, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no file can be made in this folder") as caught:
        plan_of(config)
    assert caught.value.filename == str(tmp_path / "out")
    check_sample_file(config.out)  # which tries


def test_a_disk_without_room_is_told_in_the_words_of_the_run(config):
    large = replace(config, num_images=10**13)
    plan = plan_of(large)
    assert plan.output.free_bytes < plan.output.needed_bytes
    with pytest.raises(OSError, match="No space") as caught:
        generate(large)
    assert str(plan.output.shortage)[:60] == str(caught.value)[:60]
    assert plan.output.shortage.filename == caught.value.filename
    assert plan_of(config).output.shortage is None


def planned(config, timing, processes=1, done=0, size=10):
    output = Outlook(False, done, size, 1, 1, 1, 1, None)
    plan = plan_of(config)
    return replace(plan, timing=timing, output=output, num_processes=processes)


def test_time_is_that_of_the_largest_share_of_what_is_left(config):
    # An evaluation: 1 s and 0.5 s a row; decoding 0.25 s an image. Of 4 evaluations 3 are guided.
    timing = Timing(Line(1.0, 0.5, 4), None, Line(0.0, 0.25, 1), 1)
    assert timing.batch(10, (1, 3)) == (1 + 5) + 3 * (1 + 10) + 2.5
    batch = 41.5
    hundred = replace(config, num_images=100)
    assert planned(hundred, timing).seconds == pytest.approx(10 * batch)
    assert planned(hundred, timing, done=40).seconds == pytest.approx(6 * batch)
    assert planned(hundred, timing, processes=4).seconds == pytest.approx(3 * batch)
    assert planned(hundred, timing, processes=3, done=70).seconds == pytest.approx(batch)
    guided = Timing(Line(1.0, 0.5, 4), Line(0.5, 0.0, 4), None, 1)
    assert guided.batch(10, (1, 3)) == 6 + 3 * (6 + 0.5)


def test_few_rows_are_measured_where_one_takes_long(monkeypatch):
    clock, rows = [0.0], []

    def work(count):
        def run():
            rows.append(count)
            clock[0] += 0.1 + 0.2 * count

        return run

    monkeypatch.setattr("repa_base.device.time.perf_counter", lambda: clock[0])
    line = measuring._line(work, 64, torch.device("cpu"))
    # 0.3 s for one row: three or four of them take about a second.
    assert line.measured_rows == 3 and line.each == pytest.approx(0.2)
    assert line.seconds(64) == pytest.approx(0.1 + 0.2 * 64)
    rows.clear()
    slow = measuring._line(lambda count: lambda: [work(count)() for _ in range(5)], 64, "cpu")
    assert rows == [1] * 10 and slow == Line(0.0, pytest.approx(1.5), 1)
    rows.clear()
    measuring._line(lambda count: lambda: [work(count)() for _ in range(101)], 64, "cpu")
    assert rows == [1] * 101
    assert measuring._line(work, 2, "cpu").measured_rows == 2


def test_more_processes_than_the_reference_had_are_refused(config):
    reference = replace(config, rng="reference", world_size=2)
    assert plan_of(reference).remarks[0].startswith("rng reference: these images are those of no")
    with pytest.raises(SettingError, match="at most 2 processes here, not 3"):
        plan_of(reference, processes=Processes(size=3))


def test_the_published_row_is_named_with_what_differs(model):
    asked = {"cfg_scale": 1.8, "guidance_interval": (0.0, 0.7), "labels": "random"}
    config = SampleConfig(model=model, num_images=50_000, device="cpu", **asked)
    released = {"model": "sit-xl-2-repa-256", "image_size": 256, "autoencoder": "sd-vae-ft-ema"}

    class Planned:
        checkpoint = type("", (), {"settings": type("", (), {"dataset": "imagenet-256"})})
        manifest = Job.plan(config, Processes()).manifest | released | {"tf32": True}

    row = planning._row(Planned, config)
    assert row.name == "repa-xl-2-cfg-1.8-interval-0.7"
    assert row.comparable and not row.differences
    Planned.manifest = {**Planned.manifest, "num_steps": 12}
    assert [each.setting for each in planning._row(Planned, config).differences] == ["num_steps"]


def test_a_batch_that_does_not_fit_is_not_measured_and_the_reason_is_told(config, monkeypatch):
    def full(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(planning, "timing_of", full)
    plan = dry_run(config)
    assert plan.timing is None is plan.seconds
    assert plan.unmeasured == "out of memory for 7 images at once: try repa sample --batch-size 3."


@pytest.mark.parametrize(
    ("begun", "recorded", "said"),
    [
        (
            True,
            None,
            "of the run: go on on .*, or begin anew with --batch-size 3 and another --out",
        ),
        (False, "a manifest", "of its manifest: repeat it on a device with more of it"),
    ],
)
def test_no_batch_size_is_advised_to_a_run_that_cannot_have_another(
    config, monkeypatch, begun, recorded, said
):
    def full(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(planning, "timing_of", full)
    job = replace(Job.plan(config, Processes()), recorded=recorded)
    _, unmeasured = planning._measured(job, 7, begun=begun)
    assert re.fullmatch(f"out of memory for 7 images at once, the block size {said}\\.", unmeasured)
