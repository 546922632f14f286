"""A person's adaptations in the registry: promoted by what they measured, served on demand, deleted everywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from adapted_toys import SETTINGS, small_models

import services.adaptation.subjects
from datamodules.types import BadInputError
from modules.generators.adaptation import load_adaptation
from services.adaptation.alone import alone_in
from services.adaptation.learn import adapt_clip
from services.adaptation.models import evaluation_of
from services.adaptation.subjects import Forgotten, forget_adaptations, jobs_of, subject_of
from services.consent import Subject
from services.model_names import adaptation_of, is_adaptation, usual_name
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.progress import CancelledError, Progress, never, silent
from services.registry.connection import RegistryConfig
from services.registry.errors import GateRefusedError, NoSuchVersionError, RegistryUnavailableError
from services.registry.gate import GateConfig, Gates
from services.registry.promote import ModelRegistry
from services.serving.job_folder import write_request
from services.serving.served_adaptations import ServedAdaptations
from services.serving.session import Session
from services.settings import load_params
from services.shell.cli import run

__all__ = ["small_models"]
GATE = GateConfig({"psnr_gain": 0.0}, {}, 1, 1, alone=True)
NAME = "stylereel-adaptation-anna"


def made(clip: Path, folder: Path, models: Models, subject: str, iterations: int = 3, expires: str = "") -> Path:
    few = replace(SETTINGS, iterations=iterations, frames=2, measured=2)
    options = EditOptions(start=0.2, end=0.4)
    about = Subject(subject, "form 17", expires)
    adapt_clip(clip, folder, models, options, few, folder.with_suffix(".work"), subject=about)
    return folder


def test_names_of_subjects() -> None:
    assert adaptation_of("anna-2") == "stylereel-adaptation-anna-2" and is_adaptation(adaptation_of("anna-2"))
    assert not is_adaptation("stylereel-adaptation") and not is_adaptation("stylereel-adaptation-Anna")
    for wrong in ("Anna", "anna maria", "-anna", "", "a" * 41, "../x", "anna%"):
        with pytest.raises(BadInputError, match="small letters, digits and dashes"):
            adaptation_of(wrong)
    assert usual_name({"kind": "adaptation", "subject": {"name": "anna"}}) == NAME
    with pytest.raises(BadInputError, match="adapt with --subject"):
        usual_name({"kind": "adaptation", "subject": {"name": ""}})


def test_the_gate_reads_how_near_it_came_on_its_own_clip(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry
) -> None:
    gates = load_params().section("gate", Gates)
    assert gates.of(NAME).alone and gates.of(NAME).floors["psnr"] > 0
    for number, gain in enumerate((3, 4)):
        folder = made(clip, tmp_path / str(number), small_models, "anna", gain)
        registry.register(folder, NAME, evaluation_of(folder), {"subject": "anna", "consent": "form 17"})
        assert registry.promote(NAME, GATE).champion.version == str(number + 1)
    status = {row.name: row for row in registry.status()}
    assert (status[NAME].champion, status[NAME].previous) == ("2", "1")
    assert registry.resolve(NAME).tags["consent"] == "form 17"
    assert [event.version for event in registry.history() if event.name == NAME] == ["1", "2"]
    folder = made(clip, tmp_path / "2", small_models, "anna", 5)
    worse = replace(evaluation_of(folder), metrics={"psnr_gain": -1.0})
    registry.register(folder, NAME, worse)
    with pytest.raises(GateRefusedError, match="psnr_gain"):
        registry.promote(NAME, GATE)


def test_a_server_edits_with_the_champion_and_keeps_the_last_few(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedAdaptations(small_models, registry, keep=1)
    session = Session(small_models, ())
    with pytest.raises(BadInputError, match=f"no adaptation of anna: .*promote {NAME}") as missing:
        served.session("anna", session)
    assert missing.value.status == 404
    for name in ("anna", "ben"):
        folder = made(clip, tmp_path / name, small_models, name)
        registry.register(folder, adaptation_of(name), evaluation_of(folder))
        registry.promote(adaptation_of(name), GATE)
    anna = served.session("anna", session)
    assert anna.models.adapted and anna.header == f"{NAME}/1"
    learned = load_adaptation(tmp_path / "anna", small_models.generator.sha256)
    assert anna.models.versions["stylereel-adaptation"] == learned.sha256
    assert served.session("anna", session).models.generator is anna.models.generator
    ben = served.session("ben", session)
    assert ben.models.generator is not anna.models.generator
    assert served.session("anna", session).models.generator is not anna.models.generator  # it had made room
    newer = made(clip, tmp_path / "newer", small_models, "anna", 4)
    registry.register(newer, NAME, evaluation_of(newer))
    registry.promote(NAME, GATE)
    monkeypatch.setattr(registry, "config", replace(registry.config, keep_versions=1))
    assert served.session("anna", session).header == f"{NAME}/2"
    assert [folder.name[:2] for folder in (registry.cache / NAME).glob("[0-9]*")] == ["2-"]

    def down(*_: object) -> None:
        raise RegistryUnavailableError("the registry does not answer")

    monkeypatch.setattr(registry, "resolve", down)
    assert served.session("anna", session).served[-1].source == "cache"


def test_a_consent_that_runs_out_ends_what_is_served(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry
) -> None:
    folder = made(clip, tmp_path / "anna", small_models, "anna", expires="2026-01-01")
    registry.register(folder, NAME, evaluation_of(folder))
    registry.promote(NAME, GATE)
    with pytest.raises(BadInputError, match="ran out on 2026-01-01"):
        ServedAdaptations(small_models, registry, 2).session("anna", Session(small_models, ()))


def said_in(database: Path, *words: str) -> list[tuple[str, str]]:
    """Table and column of every text in an SQLite file that has one of the words."""
    with closing(sqlite3.connect(database)) as connection:
        found = []
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [about[0] for about in rows.description]
            found += [
                (table, column)
                for row in rows
                for column, value in zip(columns, row, strict=True)
                if any(word in str(value) for word in words)
            ]
    return found


def as_of(folder: Path, subject: str, clip: str) -> None:
    """Have a copied adaptation be of another person or clip."""
    config = json.loads((folder / "config.json").read_text())
    config["subject"]["name"], config["source"]["sha256"] = subject, clip
    (folder / "config.json").write_text(json.dumps(config))


def test_a_person_is_forgotten_everywhere_and_nobody_else(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry
) -> None:
    state = tmp_path / "state"
    sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
    database = registry.connection.database
    assert database is not None
    for name in ("anna", "ben"):
        folder = made(clip, state / "adaptations" / name, small_models, name)
        registry.register(folder, adaptation_of(name), evaluation_of(folder), {"consent": f"form of {name}"})
        registry.promote(adaptation_of(name), GATE)
        registry.download(registry.resolve(adaptation_of(name)))
    (state / "adaptations" / "unnamed").mkdir()
    files = {path for path in tmp_path.rglob("weights.safetensors") if "adaptations" not in path.parts}
    assert len(files) == 4  # of each, the registry's and the download
    # As 'edit --adapt' leaves them, whole and stopped: of the clip that anna's was learned from, and of another.
    shutil.rmtree(state / "adaptations" / "anna")
    for name, learned_from in (("0123", sha256), ("4567", "c" * 64)):
        shutil.copytree(state / "adaptations" / "ben", state / "adaptations" / name)
        as_of(state / "adaptations" / name, "", learned_from)
        (state / "adaptations" / f"{name}.unfinished").mkdir()
        said = {"subject": {"name": ""}, "source": {"sha256": learned_from}}
        (state / "adaptations" / f"{name}.unfinished" / "subject.json").write_text(json.dumps(said))
    assert {table for table, _ in said_in(database, "anna")} >= {"runs", "tags", "model_versions"}
    seen: list[frozenset[str]] = []
    assert forget_adaptations("anna", registry, state, lambda clips: seen.append(clips) or 3) == Forgotten(1, 2, 3)
    assert seen == [{sha256}]
    assert said_in(database, "anna") == [] and said_in(database, "form of ben") != []
    assert not [path for path in registry.cache.rglob("*") if "anna" in path.name]
    left = {path for path in tmp_path.rglob("weights.safetensors") if "adaptations" not in path.parts}
    assert len(left) == 2 and left < files
    assert {path.name for path in (state / "adaptations").iterdir()} == {
        "ben", "unnamed", "4567", "4567.unfinished",
    }  # fmt: skip
    with pytest.raises(NoSuchVersionError):
        registry.resolve(NAME)
    assert registry.resolve(adaptation_of("ben")).version == "1"
    assert registry.subjects() == [adaptation_of("ben")]
    assert not any("anna" in path.read_text(errors="ignore") for path in tmp_path.rglob("card.md"))
    assert forget_adaptations("anna", registry, state, len) == Forgotten(0, 0, 0)
    # A clip that nothing says is hers: it is named.
    assert forget_adaptations("anna", registry, state, len, {"c" * 64}) == Forgotten(0, 2, 1)
    assert {path.name for path in (state / "adaptations").iterdir()} == {"ben", "unnamed"}
    again = made(clip, tmp_path / "again", small_models, "anna")
    assert registry.register(again, NAME, evaluation_of(again)).version == "1"


@pytest.mark.parametrize("broken_at", ["jobs", "folders", "registry"])
def test_forgetting_that_was_interrupted_can_be_repeated(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry, monkeypatch, broken_at: str
) -> None:
    state, sha256 = tmp_path / "state", hashlib.sha256(clip.read_bytes()).hexdigest()
    folder = made(clip, state / "adaptations" / "anna", small_models, "anna")
    registry.register(folder, NAME, evaluation_of(folder))
    shutil.copytree(folder, state / "adaptations" / "0123")
    as_of(state / "adaptations" / "0123", "", sha256)
    shutil.rmtree(folder)  # only the registry knows whose clip it was
    jobs = {"a job"}

    def delete_jobs(clips: frozenset[str]) -> int:
        if broken_at == "jobs":
            raise KeyboardInterrupt
        assert clips == {sha256}
        done = len(jobs)
        jobs.clear()
        return done

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if broken_at != "jobs":
            name = {"folders": "remove_tree", "registry": "forget_model"}[broken_at]
            patched.setattr(services.adaptation.subjects, name, broken)
        forget_adaptations("anna", registry, state, delete_jobs)
    before, broken_at = broken_at, ""
    left = 0 if before == "registry" else 1
    assert forget_adaptations("anna", registry, state, delete_jobs) == Forgotten(1, left, int(before == "jobs"))
    assert not jobs and not list((state / "adaptations").iterdir()) and registry.subjects() == []


def test_frames_of_an_adaptation_that_was_stopped_are_forgotten_too(
    clip: Path, small_models: Models, tmp_path: Path, registry: ModelRegistry
) -> None:
    state = tmp_path / "state"
    work = state / "adaptations" / "key.unfinished"
    seen: list[Progress] = []
    with pytest.raises(CancelledError):
        adapt_clip(
            clip, tmp_path / "anna", small_models, EditOptions(start=0.2, end=0.4), SETTINGS, work,
            seen.append, lambda: bool(seen) and seen[-1].stage == "adapt", subject=Subject("anna"),
        )  # fmt: skip
    assert (work / "crops").stat().st_size > 0 and subject_of(work) == "anna"
    held, forgotten = threading.Event(), threading.Event()

    def learns() -> None:
        with alone_in(work, silent, never):
            held.set()
            forgotten.wait(60)

    other = threading.Thread(target=learns)
    other.start()
    assert held.wait(60)
    with pytest.raises(BadInputError, match="is learning this face right now") as busy:
        forget_adaptations("anna", registry, state, lambda _: pytest.fail("nothing is deleted then"))
    forgotten.set()
    other.join()
    assert busy.value.status == 409 and work.exists()
    sha256 = hashlib.sha256(clip.read_bytes()).hexdigest()
    assert forget_adaptations("anna", registry, state, lambda clips: len(clips & {sha256})) == Forgotten(0, 1, 1)
    assert list((state / "adaptations").iterdir()) == []


def test_whose_a_folder_is_and_which_jobs_asked_for_it(tmp_path: Path) -> None:
    assert subject_of(tmp_path) is None
    for name, content in (("a", {"subject": "anna"}), ("b", {"subject": None}), ("c", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "request.json").write_text(json.dumps(content))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "request.json").write_text("torn")
    assert jobs_of("anna", tmp_path) == ["a"]
    # The clip itself says whose a job is: by what was noted when it came, or by itself where nothing was.
    sha256 = hashlib.sha256(b"a clip of anna").hexdigest()
    for name in ("noted", "not-noted", "of-another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "input").write_bytes(b"of ben" if name == "of-another" else b"a clip of anna")
        write_request(tmp_path / name, {"subject": None})
    (tmp_path / "noted" / "input").unlink()  # as when the job is over
    (tmp_path / "not-noted" / "request.json").write_text(json.dumps({"subject": None}))
    assert sorted(jobs_of("anna", tmp_path, {sha256})) == ["a", "not-noted", "noted"]
    assert jobs_of("anna", tmp_path) == ["a"]


def test_latents_are_forgotten_by_the_file_they_were_made_of(tmp_path: Path, registry: ModelRegistry) -> None:
    latents = tmp_path / "latents"
    for name, sha256 in (("a" * 32, "1" * 64), (f".part-{'b' * 32}", "1" * 64), ("c" * 32, "2" * 64)):
        (latents / name).mkdir(parents=True)
        (latents / name / "input_sha256").write_text(sha256)
        (latents / name / "image.png").write_bytes(b"a face")
    (latents / ("d" * 32)).mkdir()  # as a server of before left it
    assert forget_adaptations("anna", registry, tmp_path, lambda _: 0) == Forgotten(0, 0, 0, 0)
    assert forget_adaptations("anna", registry, tmp_path, lambda _: 0, {"1" * 64}) == Forgotten(0, 0, 0, 2)
    assert {path.name for path in latents.iterdir()} == {"c" * 32, "d" * 32}


def test_the_shell_registers_promotes_and_forgets(
    clip: Path, small_models: Models, tmp_path: Path, tracking_uri: str, registry_config: RegistryConfig,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STYLEREEL_TRACKING_URI", tracking_uri)
    folder = made(clip, tmp_path / "anna", small_models, "anna")
    evaluation = tmp_path / "anna.evaluation.json"
    good = replace(evaluation_of(folder), metrics={"psnr": 30.0, "psnr_gain": 9.0, "identity": 0.9}, frames=12)
    evaluation.write_text(good.to_json())
    assert run(["register", str(folder), "--evaluation", str(evaluation)]) == 0
    assert run(["promote", NAME]) == 2, "the generator of params.yaml is another"
    assert "belongs to generator" in capsys.readouterr().err
    monkeypatch.setattr("services.precise_generator.generator_sha256", lambda _: small_models.generator.sha256)
    assert run(["promote", NAME]) == 0
    assert run(["status"]) == 0
    assert NAME in capsys.readouterr().out
    job = tmp_path / "state" / "jobs" / ("a" * 32)
    job.mkdir(parents=True)
    (job / "request.json").write_text(json.dumps({"subject": "anna"}))
    plain = [tmp_path / "state" / "jobs" / (digit * 32) for digit in "bc"]
    for place, content in zip(plain, (clip.read_bytes(), b"of ben"), strict=True):
        place.mkdir()
        (place / "input").write_bytes(content)
        write_request(place, {"subject": None})
    assert run(["forget", "anna"]) == 0
    assert "anna: 1 registered versions, 0 adaptations, 2 jobs, 0 latents deleted" in capsys.readouterr().out
    assert not job.exists() and not plain[0].exists() and plain[1].exists() and folder.exists()
    other = tmp_path / "other.mp4"
    other.write_bytes(b"of ben")
    latent = tmp_path / "state" / "latents" / ("d" * 32)
    latent.mkdir(parents=True)
    (latent / "input_sha256").write_text(hashlib.sha256(b"of ben").hexdigest())
    assert run(["forget", "ben", "--clip", str(other), "--clip", str(clip)]) == 0
    assert "0 adaptations, 1 jobs, 1 latents deleted" in capsys.readouterr().out and not plain[1].exists()
    assert not latent.exists() and latent.parent.is_dir()
    assert run(["forget", "ben", "--clip", str(tmp_path)]) == 2
    assert "give the clip that was learned from" in capsys.readouterr().err
    assert run(["forget", "Anna"]) == 2
    assert "small letters" in capsys.readouterr().err
