"""What a person agreed to, as it is handed on from one adaptation to the next."""

from __future__ import annotations

import pytest

from datamodules.types import BadInputError
from services.consent import Subject, handed_on, require_consent

ANNA = Subject("anna", "form 17", "2900-12-31")


def test_what_is_not_given_stays_as_it_was() -> None:
    assert handed_on(ANNA, Subject()) == ANNA
    assert handed_on(Subject(), ANNA) == ANNA
    assert handed_on(ANNA, Subject("anna", expires="2800-01-01")) == Subject("anna", "form 17", "2800-01-01")
    assert handed_on(ANNA, Subject(consent="form 18")) == Subject("anna", "form 18", "2900-12-31")


def test_another_person_is_refused() -> None:
    with pytest.raises(BadInputError, match="is of anna, not of ben"):
        handed_on(ANNA, Subject("ben"))


@pytest.mark.parametrize("consent", ["", "form 17"])
def test_a_longer_consent_is_a_new_one(consent: str) -> None:
    with pytest.raises(BadInputError, match=r"holds until 2900-12-31; until 2901-01-01 .*--consent"):
        handed_on(ANNA, Subject("anna", consent, "2901-01-01"))
    assert handed_on(ANNA, Subject("", "form 18", "2901-01-01")) == Subject("anna", "form 18", "2901-01-01")


def test_a_consent_that_ran_out_is_not_gone_on_with() -> None:
    over = Subject("anna", "form 17", "2026-01-01")
    for asked in (Subject(), Subject("anna", "form 18", "2999-01-01")):
        with pytest.raises(BadInputError, match="for anna ran out on 2026-01-01"):
            handed_on(over, asked)
    with pytest.raises(BadInputError, match="for models/anna ran out"):
        require_consent(over, "models/anna")
    require_consent(Subject("anna"), "models/anna")


def test_a_config_says_whose_it_is_or_nobodys() -> None:
    assert Subject.of({"subject": {"name": "anna", "consent": "form 17", "expires": "2900-12-31"}}) == ANNA
    assert Subject.of({}) == Subject.of({"subject": None}) == Subject.of({"subject": {}}) == Subject()
