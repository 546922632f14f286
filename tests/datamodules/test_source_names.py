"""Names are as short as they can be, and no two paths share one."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from datamodules.source_names import told_apart

PATHS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), unique_by=tuple)


def test_folders_are_named_where_files_share_a_name() -> None:
    paths = ["/v/anna/cam0.mp4", "/v/ben/cam0.mp4", "/v/ben/cam1.mp4", "/w/x/one.mp4", "/v/x/one.mp4"]
    named = ["anna/cam0.mp4", "ben/cam0.mp4", "cam1.mp4", "w/x/one.mp4", "v/x/one.mp4"]
    assert told_apart([Path(path) for path in paths]) == named
    assert told_apart([]) == []


def test_one_path_given_twice_has_one_name() -> None:
    assert told_apart([Path("/a/b.mp4"), Path("/a/b.mp4")]) == ["a/b.mp4"] * 2


@given(PATHS)
def test_no_two_paths_share_a_name(parts) -> None:
    paths = [Path("/", *part) for part in parts]
    names = told_apart(paths)
    assert len(set(names)) == len(paths)
    assert all(f"{path}".endswith(f"/{name}") for path, name in zip(paths, names, strict=True))
    shorter = [name.partition("/")[2] for name in names]
    for number, (name, cut) in enumerate(zip(names, shorter, strict=True)):
        others = [f"{path}" for place, path in enumerate(paths) if place != number]
        assert "/" not in name or any(path.endswith(f"/{cut}") for path in others), "no shorter than it must be"
