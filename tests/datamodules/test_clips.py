"""Videos become shards and an index: what is used, what is left out, who is in which split."""

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from disc_faces import (
    CLIPS,
    COLOURS,
    PEOPLE,
    SHOTS,
    clip,
    embed,
    face_picture,
    prepare,
    prepared,
    stills,
    track,
    videos,
)
from safetensors.numpy import save_file as written

from datamodules.alignment import SmoothingConfig
from datamodules.clips import INDEX, ClipsConfig, find_videos, prepare_clips, read_prepared
from datamodules.people import PeopleConfig
from datamodules.shards import Shard
from datamodules.types import BadInputError

__all__ = ["prepared", "videos"]


def test_what_can_be_used_is_and_the_rest_is_listed_with_reasons(prepared):
    assert {c.name: c.frames for c in prepared.clips} == {
        "anna1.mp4": 30,
        "anna2.mp4": 20,
        "bert.mp4": 20,
        "carl.mp4": 20,
    }
    reasons = dict(prepared.left_out)
    assert set(reasons) == {"nobody.mp4", "hardly.mp4", "tiny.mp4", "broken.mp4", "twice.mp4", "sound.mp4"}
    assert "0 of 20" in reasons["nobody.mp4"] and "3 of 20" in reasons["hardly.mp4"]
    assert "too small" in reasons["tiny.mp4"] and "twice" in reasons["twice.mp4"]
    assert "cut off" in reasons["broken.mp4"] and "no video stream" in reasons["sound.mp4"]
    assert read_prepared(prepared.folder) == prepared
    assert len(list(prepared.folder.iterdir())) == 5


def test_splits_are_by_person(prepared):
    by_name = {c.name: c for c in prepared.clips}
    assert by_name["anna1.mp4"].person == by_name["anna2.mp4"].person
    assert len({c.person for c in prepared.clips}) == 3
    assert by_name["carl.mp4"].split == "test" and len(prepared.of("test")) == 1
    assert prepared.data_hash("test") != prepared.data_hash("train") == prepared.data_hash("train")


def test_a_second_run_redoes_only_what_changed(prepared, videos):
    tracked = []

    def counting(frames):
        tracked.append(len(frames))
        return track(frames)

    before = {p.name: p.stat().st_mtime_ns for p in prepared.folder.glob("*.safetensors")}
    again = prepare(videos, prepared.folder, counting)
    # Only the clips that were left out for their faces are looked at again.
    assert sum(tracked) == 60 and again == prepared
    assert {p.name: p.stat().st_mtime_ns for p in prepared.folder.glob("*.safetensors")} == before


def test_other_settings_make_other_shards(videos, tmp_path):
    one = prepare(videos, tmp_path / "a", config=CLIPS)
    hashes = {one.data_hash("train")}
    two = prepare(videos, tmp_path / "a", made_by="other networks")
    hashes.add(two.data_hash("train"))
    assert len(hashes) == 2 and one.clips == two.clips
    assert prepare(videos, tmp_path / "a").data_hash("train") == one.data_hash("train") in hashes


def test_other_code_makes_other_shards_of_the_same_data(videos, tmp_path, monkeypatch):
    images = stills(tmp_path / "images", "anna", "bert")
    tracked = []

    def counting(frames):
        tracked.append(len(frames))
        return track(frames)

    def made(**how):
        tracked.clear()
        result = prepare(videos, tmp_path / "a", counting, image_folders=[images], **how)
        shards = {c.name: Shard(tmp_path / "a" / c.shard, "x").metadata["fingerprint"] for c in result.clips}
        return sum(tracked), shards, {split: result.data_hash(split) for split in ("train", "test")}

    looks, shards, data = made(code="one")
    assert made(code="one") == (60, shards, data), "the clips that are left out are looked at each time"
    again, others, same = made(code="two")
    assert again == looks and same == data and len(others) == 5
    assert not set(others.values()) & set(shards.values())
    monkeypatch.setattr("datamodules.clips.VERSION", 999)
    later, raised, other = made(code="two")
    assert later == looks and not set(raised.values()) & set(others.values())
    assert all(other[split] != data[split] for split in data)


def test_the_hash_of_the_data_is_that_of_another_machine(videos, tmp_path):
    """Which rounds embeddings otherwise; the choice of stills follows from those."""

    def rounded(crops):
        return torch.nn.functional.normalize(embed(crops) + 1e-6, dim=1)

    images = stills(tmp_path / "images", "anna", "carl")
    here = prepare(videos, tmp_path / "a", image_folders=[images])
    there = prepare(videos, tmp_path / "b", image_folders=[images], embed=rounded)
    [one], [other] = ([c for c in made.clips if c.name == "anna1.mp4"] for made in (here, there))
    rows = [Shard(made.folder / one.shard, "x").array("identities") for made in (here, there)]
    assert one == other and not np.array_equal(*rows)
    assert all(here.data_hash(split) == there.data_hash(split) for split in ("train", "test"))


def test_who_is_who_is_part_of_the_data(prepared):
    """The same pixels, other persons to find among others; how the persons are numbered says nothing."""

    def numbered(**numbers):
        clips = tuple(replace(c, person=numbers[c.name.removesuffix(".mp4")]) for c in prepared.clips)
        return replace(prepared, clips=clips).data_hash("train")

    assert numbered(anna1=7, anna2=7, bert=3, carl=5) == prepared.data_hash("train")
    assert numbered(anna1=0, anna2=0, bert=0, carl=2) != prepared.data_hash("train")


def test_an_added_clip_moves_nobody_and_one_that_joins_two_splits_is_left_out(tmp_path):
    nobody = tmp_path / "nobody.toml"
    nobody.write_text("[clips]\n")
    folder = tmp_path / "videos"
    folder.mkdir()

    def made(**shares):
        people = PeopleConfig(same_person=0.8, **{"val_share": 0.5, "test_share": 0.0, **shares})
        return prepare_clips(
            find_videos(folder), tmp_path / "a", lambda: track, embed, CLIPS, SmoothingConfig(0, 0), SHOTS, people,
            test_list=nobody,
        )  # fmt: skip

    def of(result):
        return {c.name: c.split for c in result.clips}

    for person in ("anna", "bert", "carl"):
        clip(folder, person, [face_picture(person, i) for i in range(10)])
    first = made()
    # More of each, until the hash of all their clips, which a fresh start draws by, draws somebody otherwise.
    for number in range(12):
        for person in ("anna", "bert", "carl"):
            clip(folder, f"{person}{number}", [face_picture(person, i, background=40 + number) for i in range(6)])
        (tmp_path / "a" / INDEX).rename(tmp_path / "kept.json")
        fresh = of(made())
        (tmp_path / "kept.json").rename(tmp_path / "a" / INDEX)
        if any(fresh[c.name] != c.split for c in first.clips):
            break
    assert any(fresh[c.name] != c.split for c in first.clips)
    whose = {c.name[:4]: c.split for c in first.clips}
    assert set(whose.values()) == {"train", "val"}
    again = of(made())
    assert again == {name: whose[name[:4]] for name in again}
    # The persons of two splits in one clip, one after the other: it would join them.
    one, other = (next(person for person, split in whose.items() if split == s) for s in ("train", "val"))
    talk = [face_picture(one, i) for i in range(8)] + [face_picture(other, i, background=200) for i in range(8)]
    clip(folder, "talk", talk)
    result = made()
    assert of(result) == again and "cut it" in dict(result.left_out)["talk.mp4"]
    assert made() == result
    # Other shares deal all persons anew, as a fresh start does.
    assert set(of(made(val_share=0.0)).values()) == {"train"}
    # An index of before the shares were written counts; one that cannot be read does not.
    made(val_share=0.0)
    index = json.loads((tmp_path / "a" / INDEX).read_text())
    del index["shares"]
    (tmp_path / "a" / INDEX).write_text(json.dumps(index))
    assert set(of(made()).values()) == {"train"}
    (tmp_path / "a" / INDEX).write_text("{")
    assert set(of(made()).values()) == {"train", "val"}


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for person in ("anna", "bert"):
        (tmp_path / "videos" / person).mkdir(parents=True)
        clip(tmp_path / "videos" / person, "cam0", [face_picture(person, i) for i in range(8)])
    (tmp_path / "videos" / "bert" / "cam1.mp4").write_bytes(b"nothing")
    videos = find_videos(tmp_path / "videos")
    made = prepare_clips(
        videos, tmp_path / "a", lambda: track, embed, CLIPS, SmoothingConfig(0, 0), SHOTS, PEOPLE,
        [stills(tmp_path / name / "stills", "carl") for name in ("x", "y")],
    )  # fmt: skip
    assert [c.name for c in made.clips] == ["anna/cam0.mp4", "bert/cam0.mp4", "x/stills", "y/stills"]
    assert [name for name, _ in made.left_out] == ["cam1.mp4"]


def test_who_is_withdrawn_is_not_kept(tmp_path):
    folder, made = tmp_path / "videos", tmp_path / "a"
    folder.mkdir()
    images = stills(tmp_path / "images", "anna", "bert")

    def again(images_too=True):
        return prepare_clips(
            find_videos(folder), made, lambda: track, embed, CLIPS, SmoothingConfig(0, 0), SHOTS, PEOPLE,
            [images] * images_too,
        )  # fmt: skip

    for person in ("anna", "bert"):
        clip(folder, person, [face_picture(person, i) for i in range(8)])
    again()
    (made / "notes.txt").write_text("not a shard")
    (folder / "bert.mp4").unlink()
    (images / "01-bert.png").unlink()
    kept = again()
    assert {path.name for path in made.iterdir()} == {INDEX, "notes.txt", *(c.shard for c in kept.clips)}
    assert [c.name for c in kept.clips] == ["anna.mp4", "images"] and kept.clips[1].frames == 1
    assert len(list(made.glob("images-*"))) == 1 and again(False) and not list(made.glob("images-*"))


def test_long_clips_are_read_from_their_start_only(videos, tmp_path):
    short = ClipsConfig(**{**vars(CLIPS), "max_frames": 12})
    assert {c.frames for c in prepare(videos, tmp_path / "a", config=short).clips} == {12, 10}


def test_stills_of_held_out_persons_are_not_trained_on(videos, tmp_path):
    # More than a batch, so that persons stay with their pictures across batches; carl is on the test list.
    persons = ["dora", "carl", "anna"] * 14
    images = stills(tmp_path / "images", *persons)
    sizes = []

    def counting(crops):
        sizes.append(len(crops))
        return embed(crops)

    def packed(folder, test_list, **how):
        result = prepare_clips(
            how.pop("videos", find_videos(videos)), folder, lambda: track, counting, CLIPS, SmoothingConfig(0, 0),
            SHOTS, how.pop("people", PEOPLE), [images], test_list, **how,
        )  # fmt: skip
        one = next((c for c in result.clips if c.name == "images"), None)
        said = {name: reason for name, reason in result.left_out if name.startswith("images/")}
        return one and Shard(folder / one.shard, "x"), said, result

    def listed(name):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'[clips]\n{hashlib.sha256((videos / f"{name}.mp4").read_bytes()).hexdigest()} = "x"\n')
        return path

    folder = tmp_path / "a"
    shard, said, result = packed(folder, listed("carl"))
    assert set(said) == {f"images/{i:02d}-carl.png" for i in range(1, 42, 3)}
    assert all("tested" in reason for reason in said.values())
    assert len(shard) == 28 and max(sizes) <= 32
    kept = [person for person in persons if person != "carl"]
    for i, person in enumerate(kept):
        np.testing.assert_allclose(shard.pixels(i)[16, 16], COLOURS[person], atol=6)
    # A run that keeps the shard looks at no still again, and says the same.
    before, made = shard.path.stat().st_mtime_ns, len(sizes)
    _, again, same = packed(folder, listed("carl"))
    assert again == said and same == result and len(sizes) == made and shard.path.stat().st_mtime_ns == before
    # Another test list: the same pictures, another shard.
    other, said, changed = packed(folder, listed("anna1"))
    assert set(said) == {f"images/{i:02d}-anna.png" for i in range(2, 42, 3)} and len(other) == 28
    assert changed.data_hash("train") != result.data_hash("train")
    # The persons of validation are no training persons either; with none held out all stills are taken.
    two = [videos / "anna1.mp4", videos / "carl.mp4"]
    validated = PeopleConfig(same_person=0.8, val_share=0.5, test_share=0.0)
    nobody = tmp_path / "nobody.toml"
    nobody.write_text("[clips]\n")
    _, said, result = packed(tmp_path / "b", nobody, videos=two, people=validated)
    [who] = [c.name[:4] for c in result.of("val")]
    assert set(said) == {f"images/{i:02d}-{p}.png" for i, p in enumerate(persons) if p == who}
    shard, said, _ = packed(tmp_path / "c", nobody, videos=two)
    assert len(shard) == 42 and not said


def test_a_folder_of_nothing_but_held_out_persons_is_left_out(videos, tmp_path):
    images = stills(tmp_path / "images", "carl", "carl")
    result = prepare(videos, tmp_path / "a", image_folders=[images])
    reasons = dict(result.left_out)
    assert {"images", "images/00-carl.png", "images/01-carl.png"} <= set(reasons)
    assert "images" not in {c.name for c in result.clips}


@pytest.mark.parametrize("source", ["clip", "images"])
def test_a_full_disk_ends_it_and_leaves_nothing_half_written(videos, tmp_path, monkeypatch, source):
    def full(tensors, path, metadata):
        if source in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written(tensors, path, metadata)

    monkeypatch.setattr("datamodules.shards.save_file", full)
    images = stills(tmp_path / "images", "anna")
    with pytest.raises(BadInputError, match="free some space") as caught:
        prepare(videos, tmp_path / "a", image_folders=[images])
    assert caught.value.status == 507
    left = [path.name for path in (tmp_path / "a").iterdir()]
    assert INDEX not in left and not any(source in name or name.startswith(".") for name in left)
    assert len(left) == (0 if source == "clip" else 4)


@pytest.mark.parametrize("what", ["clip", "index"])
def test_a_folder_that_takes_no_file_ends_it_and_is_not_called_full(videos, tmp_path, monkeypatch, what):
    tried = []

    def refuse(target, *_):
        tried.append(target)
        raise PermissionError(errno.EACCES, "Permission denied")

    if what == "clip":
        monkeypatch.setattr("datamodules.shards.save_file", lambda tensors, path, metadata: refuse(path))
    else:
        monkeypatch.setattr("datamodules.disk.os.replace", lambda part, path: (
            refuse(path) if path.name == INDEX else part.rename(path)
        ))  # fmt: skip
    with pytest.raises(BadInputError, match=r"cannot write .*\(Permission denied\); check the folder") as caught:
        prepare(videos, tmp_path / "a")
    assert caught.value.status == 422 and len(tried) == 1, "no other clip is aligned in vain"
    assert not list((tmp_path / "a").glob(".*"))


def test_files_that_are_named_like_videos_are_listed_whatever_is_in_them(videos, tmp_path):
    folder = tmp_path / "videos"
    (folder / "below").mkdir(parents=True)
    (folder / "empty.mp4").touch()
    (folder / "text.MOV").write_text("a note")
    (folder / "below" / "noise.mkv").write_bytes(bytes(range(256)))
    (folder / "nameless").write_bytes((videos / "bert.mp4").read_bytes())
    (folder / "notes.txt").write_text("a note")
    (folder / ".hidden.mp4").touch()
    (folder / ".half").mkdir()
    (folder / ".half" / "copied.mp4").touch()
    assert [path.name for path in find_videos(folder)] == ["noise.mkv", "empty.mp4", "nameless", "text.MOV"]
    result = prepare_clips(
        find_videos(folder), tmp_path / "a", lambda: track, embed, CLIPS, SmoothingConfig(0, 0), SHOTS, PEOPLE
    )
    assert [c.name for c in result.clips] == ["nameless"]
    reasons = dict(result.left_out)
    assert "empty" in reasons["empty.mp4"] and "not a video" in reasons["text.MOV"] and reasons["noise.mkv"]


def test_files_that_cannot_be_read_are_listed(videos, tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("bert.mp4", "locked.mp4", "locked"):
        (folder / name).write_bytes((videos / "bert.mp4").read_bytes())
    images = stills(tmp_path / "images", "anna", "bert")
    refused = {folder / "locked.mp4", folder / "locked", images / "01-bert.png"}

    def locked(path, *how, **more):
        if path in refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *how, **more)

    opened = Path.open
    monkeypatch.setattr(Path, "open", locked)
    # Without a suffix only its bytes would say that it is a video.
    assert [path.name for path in find_videos(folder)] == ["bert.mp4", "locked.mp4"]
    result = prepare_clips(
        find_videos(folder), tmp_path / "a", lambda: track, embed, CLIPS, SmoothingConfig(0, 0), SHOTS, PEOPLE,
        [images],
    )  # fmt: skip
    assert {c.name: c.frames for c in result.clips} == {"bert.mp4": 20, "images": 1}
    reasons = dict(result.left_out)
    assert set(reasons) == {"locked.mp4", "images/01-bert.png"} and "Permission denied" in reasons["locked.mp4"]


def test_nothing_usable_is_an_error(tmp_path):
    clip(tmp_path, "nobody", [face_picture("anna", i, lost=True) for i in range(8)])
    with pytest.raises(BadInputError, match="none of 1 sources"):
        prepare_clips(
            find_videos(tmp_path),
            tmp_path / "a",
            lambda: track,
            embed,
            CLIPS,
            SmoothingConfig(0, 0),
            SHOTS,
            PEOPLE,
        )
    with pytest.raises(BadInputError, match="not a folder"):
        find_videos(tmp_path / "none")
