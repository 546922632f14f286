"""What a job was asked, out of a request's options and out of its folder."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from services.serving.bodies import Body
from services.serving.job_request import JobRequest, factor_of


def test_a_factor_is_taken_out_of_the_options() -> None:
    body = Body(options={"factor": " 4 ", "face": "all", "subject": "anna"})
    assert factor_of(body) == 4 and body.options == {"face": "all", "subject": "anna"}
    assert factor_of(Body(options={"paste": "replace"}, edits=[EditRequest("age", 1.0)])) is None


@pytest.mark.parametrize("text", ["", "2x", "1e1", "nan", "9" * 5000])
def test_what_is_no_whole_number_is_said_in_one_line(text: str) -> None:
    with pytest.raises(
        BadInputError, match=r"^cannot use factor='.*': it must be a whole number from 2 to 8$"
    ) as no:
        factor_of(Body(options={"factor": text}))
    assert len(str(no.value)) < 200


@pytest.mark.parametrize("option", ["preview", "paste", "region", "seed", "balance", "keep_lips", "stitch"])
def test_what_only_edits_have_is_refused(option: str) -> None:
    with pytest.raises(BadInputError, match=f"{option} cannot be asked with a factor"):
        factor_of(Body(options={"factor": "2", option: "true"}))


def test_jobs_of_a_server_that_knew_no_factor_are_read() -> None:
    asked = JobRequest.read({"edits": [{"name": "age", "strength": 5.0}], "options": {"end": "2s"}, "task": None})
    assert asked.edits == (EditRequest("age", 5.0),) and asked.options.end == 2.0
    assert (asked.task, asked.factor, asked.subject) == (None, None, None)
    restored = JobRequest.read({"edits": [], "options": {"face": "1"}, "task": "enlarge", "subject": None})
    assert restored.task == "enlarge" and restored.options.region == "head" and restored.options.face == "1"
