import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import AgglomerativeClustering

from datamodules.people import PeopleConfig, between_splits, read_test_list, same_people, split_people
from datamodules.types import BadInputError

CONFIG = PeopleConfig(same_person=0.4, val_share=0.3, test_share=0.0)


def faces(people, seed=0, alike=0.7):
    """One embedding per entry, `alike` to others of the same person, near 0 to everybody else."""
    random = np.random.default_rng(seed)
    base = np.linalg.qr(random.normal(size=(64, 64)))[0]
    rows = []
    for clip, person in enumerate(people):
        rows.append(alike**0.5 * base[person] + (1 - alike) ** 0.5 * base[63 - clip])
    return [row[None].astype(np.float32) for row in rows]


def test_clips_of_one_person_are_one_group():
    assert same_people(faces([0, 1, 0, 2, 1, 3]), 0.4) == [0, 1, 0, 2, 1, 3]
    assert same_people(faces([0, 1, 0, 2, 1, 3]), 0.9) == [0, 1, 2, 3, 4, 5]
    assert same_people([], 0.4) == []


def test_a_clip_of_two_people_joins_both():
    one, other, third = faces([0, 1, 2])
    assert same_people([one, other, np.concatenate([one, other]), third], 0.4) == [0, 0, 0, 1]


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 12), threshold=st.floats(0.05, 0.9))
def test_groups_are_single_linkage(seed, count, threshold):
    rows = np.random.default_rng(seed).normal(size=(count, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ours = same_people([row[None].astype(np.float32) for row in rows], threshold)
    theirs = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="single", distance_threshold=1 - threshold
    ).fit_predict(rows)
    assert np.array_equal(np.equal.outer(ours, ours), np.equal.outer(theirs, theirs))


def test_no_person_is_in_two_splits_and_the_order_does_not_matter():
    random = np.random.default_rng(0)
    shas = [random.bytes(32).hex() for _ in range(400)]
    people = random.integers(0, 150, 400).tolist()
    tested = {shas[3]: "a", shas[200]: "b"}
    splits = dict(zip(shas, split_people(shas, people, tested, CONFIG), strict=True))
    by_person = {p: {splits[s] for s, q in zip(shas, people, strict=True) if p == q} for p in set(people)}
    assert all(len(found) == 1 for found in by_person.values())
    assert {p for p, found in by_person.items() if found == {"test"}} == {people[3], people[200]}
    share = sum(found == {"val"} for found in by_person.values()) / len(by_person)
    assert 0.2 < share < 0.4
    shuffled = random.permutation(400)
    again = split_people([shas[i] for i in shuffled], [people[i] + 1000 for i in shuffled], tested, CONFIG)
    assert [splits[shas[i]] for i in shuffled] == again
    dealt = split_people(shas, people, {}, PeopleConfig(same_person=0.4, val_share=0.0, test_share=0.5))
    assert {"train", "test"} == set(dealt)


@pytest.mark.parametrize("val_share", [1e-9, 1.0])
def test_few_persons_are_still_trained_and_validated_on(val_share):
    config = PeopleConfig(same_person=0.4, val_share=val_share, test_share=0.0)
    shas = [f"{n:064x}" for n in range(4)]
    splits = split_people(shas, [0, 1, 2, 0], {}, config)
    assert {"train", "val"} == set(splits) and splits[0] == splits[3]
    assert split_people(shas[:1], [0], {}, config) == ["train"], "who is alone is learned from"
    assert split_people(shas[:2], [0, 1], {shas[0]: "tested"}, config) == ["test", "train"]
    tested = PeopleConfig(same_person=0.4, val_share=0.0, test_share=1.0)
    assert sorted(split_people(shas[:3], [0, 1, 2], {}, tested)) == ["test", "test", "train"]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(0, 8), min_size=2, max_size=4),
    threshold=st.floats(0.3, 0.95),
    val_share=st.sampled_from([0.0, 0.3]),
    test_share=st.sampled_from([0.0, 0.3]),
)
def test_clips_that_are_added_move_nobody(seed, counts, threshold, val_share, test_share):
    """Batch after batch of clips, alike at random; what is left out is what would have moved somebody."""
    config = PeopleConfig(same_person=threshold, val_share=val_share, test_share=test_share)
    random = np.random.default_rng(seed)
    rows = random.normal(size=(sum(counts), 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    shas = [random.bytes(32).hex() for _ in rows]
    tested = {sha: "tested" for sha in shas[: counts[0]] if random.random() < 0.2}
    kept, earlier = [], {}
    for first, count in zip(np.cumsum([0, *counts]), counts, strict=False):
        offered = random.permutation([*kept, *range(first, first + count)])
        between = between_splits(
            [shas[i] for i in offered], [rows[i][None] for i in offered], tested, earlier, threshold
        )
        out = {int(offered[i]) for i in between}
        assert out.isdisjoint(kept) and (earlier or not out), "only who is new, and never of the first clips"
        kept = [int(i) for i in offered if int(i) not in out]
        for clip in out:
            _, persons = connected_components(rows[[*kept, clip]] @ rows[[*kept, clip]].T >= threshold)
            met = [shas[i] for i, person in zip(kept, persons[:-1], strict=True) if person == persons[-1]]
            assert len({earlier[sha] for sha in met if sha in earlier}) > 1
        who = same_people([rows[i][None] for i in kept], threshold)
        splits = split_people([shas[i] for i in kept], who, tested, config, earlier)
        found = {shas[i]: split for i, split in zip(kept, splits, strict=True)}
        assert earlier.items() <= found.items()
        assert all(found[sha] == "test" for sha in tested if sha in found)
        assert len(set(zip(who, splits, strict=True))) == len(set(who))
        earlier = found


def test_a_known_person_keeps_a_split_that_a_new_draw_would_change():
    """With one clip more, the hash of all clips draws another split for two in five persons."""
    shas = [f"{n:064x}" for n in range(400)]
    before = dict(zip(shas[:200], split_people(shas[:200], range(200), {}, CONFIG), strict=True))
    people = [*range(200), *range(200)]
    dealt = split_people(shas, people, {}, CONFIG)
    assert 40 < sum(a != b for a, b in zip(dealt, before.values(), strict=False)) < 120
    kept = split_people(shas, people, {}, CONFIG, before)
    assert kept == [*before.values()] * 2


def test_the_test_list_has_the_last_word_and_what_was_trained_on_is_not_tested_on():
    shas = [f"{n:064x}" for n in range(3)]
    earlier = dict(zip(shas, ("test", "train", "val"), strict=True))
    assert split_people(shas, [0, 0, 1], {}, CONFIG, earlier) == ["train", "train", "val"]
    assert split_people(shas, [0, 0, 1], {shas[2]: "c", shas[0]: "a"}, CONFIG, earlier) == ["test"] * 3


def test_who_is_new_is_validated_on_where_nobody_is_yet():
    config = PeopleConfig(same_person=0.4, val_share=1e-9, test_share=0.0)
    shas = [f"{n:064x}" for n in range(2)]
    assert split_people(shas, [0, 1], {}, config, {shas[0]: "train"}) == ["train", "val"]
    assert split_people(shas, [0, 1], {}, config, {shas[1]: "train"}) == ["val", "train"]


def test_the_committed_list_and_wrong_ones(tmp_path):
    assert all(len(sha) == 64 and name for sha, name in read_test_list().items())
    for text in ("", "[clips]\nabc = 'x'", "[clips\n", f"[clips]\n{'g' * 64} = 'x'"):
        path = tmp_path / "list.toml"
        path.write_text(text)
        with pytest.raises(BadInputError):
            read_test_list(path)
    with pytest.raises(BadInputError):
        read_test_list(tmp_path / "none.toml")
    for wrong in ({"same_person": 2.0}, {"val_share": 0.8, "test_share": 0.4}, {"val_share": -0.1}):
        with pytest.raises(ValueError):
            PeopleConfig(**{"same_person": 0.4, "val_share": 0.1, "test_share": 0.1, **wrong})
